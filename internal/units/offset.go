package units

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"time"
)

// applicationID tells our machine IDs apart from other programs'; it must never change, or all offsets do.
var applicationID = [16]byte{0x5e, 0x0b, 0x1f, 0x6a, 0x7d, 0x34, 0x4c, 0x0e, 0x9a, 0x51, 0xc2, 0x88, 0x3d, 0x19, 0xe7, 0x42}

// MachineID identifies this machine, to us alone: it is derived from machine-id(5), which is to be kept from others, as
// sd_id128_get_machine_app_specific(3) does it. It is the same after every reboot.
func MachineID() (string, error) {
	const path = "/etc/machine-id"
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	id, err := parseMachineID(data)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return appSpecific(id, applicationID), nil
}

// parseMachineID reads the contents of /etc/machine-id: 32 hexadecimal digits, or the word "uninitialized" early at boot.
func parseMachineID(data []byte) (id [16]byte, err error) {
	n, err := hex.Decode(id[:], bytes.TrimSpace(data[:min(len(data), 33)]))
	if err != nil || n != len(id) || id == [16]byte{} {
		return id, errors.New("holds no machine ID")
	}
	return id, nil
}

// appSpecific derives an ID for one application, as sd_id128_get_machine_app_specific(3) does: a UUID of version 4.
func appSpecific(machine, application [16]byte) string {
	mac := hmac.New(sha256.New, machine[:])
	mac.Write(application[:])
	id := mac.Sum(nil)[:16]
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return hex.EncodeToString(id)
}

// Offset is by how much a backup on a machine is delayed within a window: whole seconds from zero up to, but not including,
// the window. It is always the same for the same backup on the same machine, and evenly spread over both.
func Offset(machineID, backup string, window time.Duration) time.Duration {
	seconds := uint64(max(window, 0) / time.Second)
	mac := hmac.New(sha256.New, []byte(machineID))
	mac.Write([]byte("offset\x00" + backup))
	share, _ := bits.Mul64(binary.BigEndian.Uint64(mac.Sum(nil)), seconds) // of 2^64 parts of the window
	return time.Duration(share) * time.Second
}
