// Package nodecopy makes and reads copies of a node's whole definition: one file from which a bare machine becomes that node again.
//
// A copy holds the TOML files of all layers, the files with secrets and the credentials that they name, and the last records of
// backups. It holds no data of modules: that is in the repositories. The file is a tar archive, compressed with gzip, in an OpenPGP
// message that is encrypted with a passphrase (RFC 4880, RFC 9580), so that it can be opened without this program:
//
//	gpg -d node-backup-UUID.tar.gz.gpg | tar tzv
//
// The archive holds nothing but regular files, the manifest first and the others sorted by name, without times and owners, so that the
// same configuration gives the same bytes:
//
//	manifest.json           Manifest
//	credentials/NAME        a systemd credential, decrypted
//	files/PATH              a file by its absolute path, without the first slash
//	status/BACKUP.json      a record of internal/status
//	status/BACKUP/MODULE.json
//
// The passphrase is no part of it, wherever it is kept. What cannot be read when a copy is made is left out and named in the manifest:
// most of a configuration is better than none.
//
// A file is read in whole, and its integrity is checked before anything of it is looked at; a part of a copy is never returned.
// Whoever has the passphrase could have written anything into it all the same, so a Plan writes only what the configuration in the copy
// names, and only below a few folders. Records are never written: what they say of repositories is out of date, and runs make new ones.
package nodecopy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"sdbackup/internal/config"
	"sdbackup/internal/units"
)

// format is the version of what is in the archive. A program that knows a lower one refuses the file.
const format = 1

// Copy is the definition of a node, secrets included.
type Copy struct {
	Manifest    Manifest
	Files       []File       // configuration and secrets, sorted by path
	Credentials []Credential // sorted by name
	Records     []Record     // of internal/status, sorted by name

	passphrase Content // that Plan is to put in place; nil: it is not known
}

// WithPassphrase returns the copy with the passphrase that opens it, which a Plan of it then puts where the configuration wants it.
func (c Copy) WithPassphrase(passphrase []byte) Copy {
	c.passphrase = passphrase
	return c
}

// Manifest says what a copy is of. It holds no secret and no time.
type Manifest struct {
	Format       int           `json:"format"`
	Version      string        `json:"sdbackup"` // of the program that made the copy
	Node         Node          `json:"node"`
	User         bool          `json:"user"`   // of a user's own configuration, --user
	Layers       []string      `json:"layers"` // folders, lowest first; or the one file or folder of --config
	Modules      []Module      `json:"modules"`
	Destinations []Destination `json:"destinations"`
	Missing      []Missing     `json:"missing,omitempty"`
}

// Node is the machine that a copy is of.
type Node struct {
	Name string `json:"name"`
	UUID string `json:"uuid"`
}

// Module is what identifies a module: its repositories are found by type and UUID.
type Module struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
	UUID   string `json:"uuid"`
	UIName string `json:"ui-name"`
}

// Destination is what identifies a destination.
type Destination struct {
	ID   string `json:"id"`
	UUID string `json:"uuid,omitempty"` // "": somebody wrote it by hand
}

// Missing is something that belongs to the node and could not be taken.
type Missing struct {
	Kind   string `json:"kind"` // "file", "credential" or "records"
	Name   string `json:"name"` // path, or name of the credential
	Reason string `json:"reason"`
}

func (m Missing) String() string {
	return fmt.Sprintf("%s %s is not in the copy: %s", m.Kind, printable(m.Name), printable(m.Reason))
}

// File is a file of the configuration, or one that the configuration names.
type File struct {
	Path string      // absolute and clean
	Mode fs.FileMode // permissions only
	Data Content
}

// Credential is a systemd credential, systemd.exec(5).
type Credential struct {
	Name string
	Data Content
}

// Record is a record of internal/status: "BACKUP.json" or "BACKUP/MODULE.json".
type Record struct {
	Name string
	Data Content
}

// Content is what a file holds. It may be a secret, so it is not printed by accident: whoever wants it must convert it.
type Content []byte

// String hides the content.
func (c Content) String() string {
	if len(c) == 0 {
		return ""
	}
	return "***"
}

// GoString is String for %#v.
func (c Content) GoString() string { return c.String() }

// Format is String for all other verbs, %x too.
func (c Content) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }

// MarshalJSON is String for JSON.
func (c Content) MarshalJSON() ([]byte, error) { return json.Marshal(c.String()) }

// Warnings tells what could not be taken, a line each.
func (c Copy) Warnings() []string {
	var lines []string
	for _, m := range c.Manifest.Missing {
		lines = append(lines, m.String())
	}
	return lines
}

// Digest tells two copies apart, in hexadecimal SHA-256. Copies with the same one need not be written twice.
//
// The records are no part of it. Every run changes them, so no copy would ever be spared; and the last results of a node that is lost
// are told by its repositories, better than by any copy. So the records in a copy that was written are as old as the last change of
// the configuration, of a secret or of the program. A change of the passphrase changes nothing here: who changes it must have a copy
// written whatever this says.
func (c Copy) Digest() string {
	h := sha256.New()
	c.Records = nil
	for _, e := range c.entries() {
		fmt.Fprintf(h, "%d %s %o %d\n", len(e.name), e.name, e.mode, len(e.data))
		h.Write(e.data)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// sort brings everything into the order of the archive.
func (c *Copy) sort() {
	slices.SortFunc(c.Files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	slices.SortFunc(c.Credentials, func(a, b Credential) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Records, func(a, b Record) int { return cmp.Compare(a.Name, b.Name) })
}

// FileName is the name of a node's copy at a destination.
func FileName(uuid string) string { return namePrefix + uuid + nameSuffix }

// StagedName is the name of one that is being written, or was: where a destination cannot replace a file at once, the new one is there in
// whole by this name before the old one goes. So one of the two is always whole.
func StagedName(uuid string) string { return namePrefix + uuid + stagedSuffix }

const (
	namePrefix   = "node-backup-"
	nameSuffix   = ".tar.gz.gpg"
	stagedSuffix = ".new" + nameSuffix
)

// ParseFileName returns whose copy a file is by its name; false: it is none.
func ParseFileName(name string) (uuid string, staged, ok bool) {
	rest, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return "", false, false
	}
	if uuid, staged = strings.CutSuffix(rest, stagedSuffix); !staged {
		uuid, ok = strings.CutSuffix(rest, nameSuffix)
	}
	return uuid, staged, ok && uuidPattern.MatchString(uuid)
}

// NodeUUID is what a node is known by: what the configuration says, or else a UUID made from machine-id(5) the way of
// sd_id128_get_machine_app_specific(3), which is the same after every reboot and does not give the machine ID away.
func NodeUUID(node config.Node) (string, error) {
	if node.UUID != "" {
		return node.UUID, nil
	}
	id, err := units.MachineID()
	if err != nil {
		return "", fmt.Errorf("this machine has no ID to know its copies by: %w; set uuid in [node], as printed by uuidgen", err)
	}
	return formatUUID(id)
}

// formatUUID puts the dashes into 32 hexadecimal digits.
func formatUUID(id string) (string, error) {
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%q is no 128-bit ID", id)
	}
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:], nil
}

// printable makes a text one line that does nothing to a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(text, string(utf8.RuneError)))
}
