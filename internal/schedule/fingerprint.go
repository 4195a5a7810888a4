package schedule

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// fingerprint is the state of the files of a configuration: which there are, and when each was last changed.
type fingerprint struct {
	files  string
	newest time.Time // the last change of any of them, or of a folder's list of files
}

// takeFingerprint looks at the layers of a configuration, or at the one file it is. It goes by the time of the last status
// change, which no copying or packaging tool can set back, and by the inode.
func takeFingerprint(layers []string) fingerprint {
	var f fingerprint
	var b strings.Builder
	look := func(path string) {
		info, err := os.Stat(path) // through links: /etc/sdbackup/a.toml may be one
		if err != nil {
			fmt.Fprintf(&b, "%s missing\n", path)
			return
		}
		st := info.Sys().(*syscall.Stat_t)
		changed := time.Unix(st.Ctim.Unix())
		if changed.After(f.newest) {
			f.newest = changed
		}
		fmt.Fprintf(&b, "%s %d:%d %d %d\n", path, st.Dev, st.Ino, info.Size(), changed.UnixNano())
	}
	for _, layer := range layers {
		look(layer)
		entries, _ := os.ReadDir(layer) // none where the layer is a file
		for _, e := range entries {
			if filepath.Ext(e.Name()) == ".toml" {
				look(filepath.Join(layer, e.Name()))
			}
		}
	}
	f.files = b.String()
	return f
}
