package destination

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

func TestCutBackups(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"nothing":      {"", ""},
		"another":      {"[backup.2]\na = 1\n", "[backup.2]\na = 1\n"},
		"alone":        {"[backup.1]\na = 1\n", ""},
		"no line end":  {"[backup.2]\n[backup.1]\na = 1", "[backup.2]\n"},
		"header alone": {"[backup.1]\n[backup.2]\n", "[backup.2]\n"},
		"comments around": {
			"# top\n\n# of 1\n[backup.1] # x\na = 1 # y\n# inside\nb = 2\n# behind\n\n# of 2\n[backup.2]\na = 1\n",
			"# top\n\n# of 1\n# behind\n\n# of 2\n[backup.2]\na = 1\n",
		},
		"nested": {
			"[backup.1]\na = 1\n\n# how long\n[backup.1.retention]\nkeep-daily = 7\n\n[module.m]\nx = 1\n",
			"\n[module.m]\nx = 1\n",
		},
		"apart": {
			"[backup.1]\na = 1\n# of m\n[module.m]\nx = 1\n\n[backup.1.retention]\nkeep-daily = 7\n",
			"# of m\n[module.m]\nx = 1\n\n",
		},
		"quoted": {"[backup.\"1\"]\na = 1\n[ 'backup' . 1 . x ]\nb = 1\n[backup.\"1.2\"]\n", "[backup.\"1.2\"]\n"},
		"arrays": {"[[backup.1.x]]\na = 1\n[[backup.1.x]]\na = 2\n[backup.2]\n", "[backup.2]\n"},
		"texts that look like tables": {
			"[backup.2]\na = \"\"\"\n[backup.1]\nx\"\"\"\nb = '''\n[backup.1]\n'''\nc = [\n  \"]\", # [backup.1]\n  '[backup.1]',\n[1]\n]\nd = \"[backup.1]\"\n[backup.1]\na = 1\n",
			"[backup.2]\na = \"\"\"\n[backup.1]\nx\"\"\"\nb = '''\n[backup.1]\n'''\nc = [\n  \"]\", # [backup.1]\n  '[backup.1]',\n[1]\n]\nd = \"[backup.1]\"\n",
		},
		"texts within": {
			"[backup.1]\na = \"\"\"\n[backup.2]\n\\\"\"\"\" # x\nb = [\n[1],\n# c\n]\n[backup.2]\n", "[backup.2]\n",
		},
		"line ends of Windows": {"# a\r\n[backup.1]\r\na = 1\r\n\r\n[backup.2]\r\na = 1\r\n", "# a\r\n\r\n[backup.2]\r\na = 1\r\n"},
		"byte order mark":      {"\ufeff[backup.1]\na = 1\n[backup.2]\n", "[backup.2]\n"},
		"inline is not seen":   {"[backup]\n1 = {a = 1}\n[backup.2]\n", "[backup]\n1 = {a = 1}\n[backup.2]\n"},
		"dotted is not seen":   {"backup.1.a = 1\n[backup.2]\n", "backup.1.a = 1\n[backup.2]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := cutBackups(c.text, []string{"1"}); got != c.want {
				t.Errorf("cutBackups of\n%s\nis\n%q\nwant\n%q", c.text, got, c.want)
			}
		})
	}
}

// FuzzCutBackups: of what is TOML and has the backup in tables of its own, exactly those tables go.
func FuzzCutBackups(f *testing.F) {
	f.Add("# a\n[backup.1]\na = \"\"\"x\"\"\"\n\n[backup.1.x]\nb = [1,\n2]\n[[m]]\nc = {d = '[backup.1]'}\n[[m]]\n")
	f.Add("[backup]\n[backup.2]\na=1\n[\"backup\".1]\n")
	f.Fuzz(func(t *testing.T, text string) {
		var before, after map[string]any
		if _, err := toml.Decode(text, &before); err != nil {
			return
		}
		cut := cutBackups(text, []string{"1"})
		if _, err := toml.Decode(cut, &after); err != nil {
			t.Fatalf("%q is cut to %q, which is no TOML: %v", text, cut, err)
		}
		left, _ := after["backup"].(map[string]any)
		all, _ := before["backup"].(map[string]any)
		if _, still := left["1"]; still && cut != text {
			return // it is partly inline, which Remove refuses
		}
		delete(all, "1")
		for key := range before {
			if _, ok := after[key]; !ok && key != "backup" {
				t.Errorf("%q is cut to %q, which has lost %s", text, cut, key)
			}
		}
	})
}

const backups = `# Backups of this node.
version = 1

# To both places.
[backup.1]
schedule = "daily"
destination = "a"
modules = ["m"]
retention = 3

[backup.2] # the other one
schedule = "daily"
destination = "b"
modules = ["m"]
retention = 3

# Weekly.
[backup.3]
schedule = "weekly"
destination = "a"
modules = ["m"]

[backup.3.retention]
keep-daily = 7
`

const cutBackupsText = `# Backups of this node.
version = 1

# To both places.

[backup.2] # the other one
schedule = "daily"
destination = "b"
modules = ["m"]
retention = 3

# Weekly.
`

func removable(t *testing.T) *Store {
	s := testStore(t)
	mustAdd(t, s, b2("a", "a"))
	mustAdd(t, s, b2("b", "b"))
	write(t, filepath.Join(s.Dir, "m.toml"), "[module.m]\ntype = \"m\"\nuuid = \"3792c7db-9450-4bd3-84a3-034cd0087839\"\ninclude = [\"/m\"]\n")
	return s
}

func TestRemove(t *testing.T) {
	s := removable(t)
	removed, err := s.Remove(t.Context(), Removal{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if removed.Repository != "rclone:a:a" || removed.Kept != s.passwordPath("a")+".20260102T030405Z" || read(t, removed.Kept) != "pw-"+marker+"\n" {
		t.Errorf("Remove = %+v; want where what is stored is, and its password", removed)
	}
	removed, err = s.Remove(t.Context(), Removal{ID: "b", ForgetPassword: true})
	if err != nil || removed.Kept != "" {
		t.Errorf("Remove = %+v, %v", removed, err)
	}
	if files := slices.Sorted(maps.Keys(tree(t, s.Dir))); !slices.Equal(files, []string{"m.toml", "secret/a.password.20260102T030405Z"}) {
		t.Errorf("left are %v", files)
	}
}

func TestRemoveInUse(t *testing.T) {
	s := removable(t)
	path := filepath.Join(s.Dir, "backups.toml")
	write(t, path, backups)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	before := tree(t, s.Dir)
	_, err := s.Remove(t.Context(), Removal{ID: "a"})
	if e := (*InUseError)(nil); !errors.As(err, &e) || !slices.Equal(e.Backups, []string{"1", "3"}) || !strings.Contains(err.Error(), "backups 1, 3") {
		t.Errorf("Remove = %v; want that backups 1 and 3 go there", err)
	}
	if !maps.Equal(before, tree(t, s.Dir)) {
		t.Error("files changed")
	}
	removed, err := s.Remove(t.Context(), Removal{ID: "a", Force: true})
	if err != nil || !slices.Equal(removed.Backups, []string{"1", "3"}) || !slices.Equal(removed.Files, []string{path}) {
		t.Fatalf("Remove = %+v, %v", removed, err)
	}
	if got := tree(t, s.Dir)["backups.toml"]; got != "0640 "+cutBackupsText {
		t.Errorf("the file is\n%s\nwant\n%s", got, cutBackupsText)
	}
	if cfg := s.load(); len(cfg.Errors()) > 0 || len(cfg.Backups) != 1 || len(cfg.Destinations) != 1 {
		t.Errorf("left are %v, %v, with the problems %v", cfg.Backups, cfg.Destinations, cfg.Errors())
	}
}

func TestRemoveThroughALink(t *testing.T) {
	s := removable(t)
	elsewhere := filepath.Join(t.TempDir(), "b.toml")
	write(t, elsewhere, backups)
	if err := os.Symlink(elsewhere, filepath.Join(s.Dir, "backups.toml")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), Removal{ID: "a", Force: true}); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(filepath.Join(s.Dir, "backups.toml")); err != nil || target != elsewhere || read(t, elsewhere) != cutBackupsText {
		t.Errorf("the link leads to %q, %v, where there is\n%s", target, err, read(t, elsewhere))
	}
}

func TestRemoveRefuses(t *testing.T) {
	const rest = "schedule = \"daily\"\ndestination = \"a\"\nmodules = [\"m\"]\nretention = 1\n"
	inline := `{schedule = "daily", destination = "a", modules = ["m"], retention = 1}`
	for name, c := range map[string]struct{ file, text, want string }{
		"inline":          {"etc/b.toml", "[backup]\n1 = " + inline + "\n", "edit that file"},
		"inline at top":   {"etc/b.toml", "backup = {1 = " + inline + "}\n", "edit that file"},
		"dotted":          {"etc/b.toml", "[backup]\n1.schedule = \"daily\"\n1.destination = \"a\"\n1.modules = [\"m\"]\n1.retention = 1\n", "edit that file"},
		"half inline":     {"etc/b.toml", "[backup.1]\n" + rest + "\n[backup.2]\n" + rest + "\n[backup.3]\n" + rest + "\n[backup]\n4 = " + inline + "\n", "edit that file"},
		"of a package":    {"usr/b.toml", "[backup.1]\n" + rest, "mask that file"},
		"masking another": {"usr/destination-a.toml", "[metrics]\ntextfile-dir = \"/x\"\n", "metrics would change, too"},
	} {
		t.Run(name, func(t *testing.T) {
			s := removable(t)
			root := filepath.Dir(s.Dir)
			write(t, filepath.Join(root, c.file), c.text)
			before := tree(t, root)
			_, err := s.Remove(t.Context(), Removal{ID: "a", Force: true})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasSuffix(err.Error(), "nothing was changed") {
				t.Errorf("Remove = %v; want an error with %q", err, c.want)
			}
			if !maps.Equal(before, tree(t, root)) {
				t.Error("files changed")
			}
		})
	}
}
