package units

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// stampFile is the file whose time of modification tells the manager when a persistent timer elapsed last, systemd.timer(5),
// Persistent=. It outlives the timer.
func stampFile(user bool, backup string, getenv func(string) string) string {
	folder := "/var/lib/systemd/timers"
	if user {
		data := getenv("XDG_DATA_HOME")
		if !filepath.IsAbs(data) {
			data = filepath.Join(getenv("HOME"), ".local/share")
		}
		folder = filepath.Join(data, "systemd/timers")
	}
	return filepath.Join(folder, "stamp-"+TimerName(backup))
}

// touchStamp sets the time at which a timer is taken to have elapsed last. Where there is no stamp, the manager makes one
// of the present time by itself.
func touchStamp(user bool, backup string, at time.Time) error {
	err := os.Chtimes(stampFile(user, backup, os.Getenv), at, at)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set the time stamp of %s: %w", TimerName(backup), err)
	}
	return nil
}
