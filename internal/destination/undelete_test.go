package destination

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	wiki  = "dokuwiki/3792c7db-9450-4bd3-84a3-034cd0087839"
	blobA = "0aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	blobB = "0bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// heldIn is a destination of either kind, in a folder.
func heldIn(t *testing.T, kind string) (*Store, string) {
	t.Helper()
	s, dir := testStore(t), t.TempDir()
	r := local("a", dir)
	r.Gateway = ptr(true)
	if kind == "rclone" {
		needRclone(t)
		r = Request{ID: "a", Provider: "rclone", RcloneConfig: Secret("[x]\ntype = alias\nremote = " + dir + "\n")}
	}
	r.KeepDeleted = ptr("14d")
	mustAdd(t, s, r)
	return s, dir
}

// says is the gist of what became of an undeletion.
func says(list []Deleted) string {
	var b strings.Builder
	for _, d := range list {
		fmt.Fprintf(&b, "%s %s %d+%d", d.Day, d.Repository, d.Restored, d.Present)
		for _, name := range d.Different {
			fmt.Fprintf(&b, " %s", strings.TrimPrefix(name, d.Repository+"/"))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestUndelete(t *testing.T) {
	for _, kind := range []string{"local", "rclone"} {
		t.Run(kind, func(t *testing.T) {
			s, dir := heldIn(t, kind)
			if list, err := s.Held(t.Context(), "a", ""); err != nil || len(list) > 0 {
				t.Errorf("Held = %v, %v; want nothing", list, err)
			}
			for name, text := range map[string]string{
				".deleted/2026-01-02/" + wiki + "/data/0a/" + blobA:   "a",
				".deleted/2026-01-02/" + wiki + "/snapshots/" + blobB: "bb",
				".deleted/2026-01-01/" + wiki + "/snapshots/" + blobB: "bb", // deleted, stored again, deleted again
				".deleted/2026-01-01/" + wiki + "/index/" + blobB:     "there already",
				".deleted/2026-01-01/" + wiki + "/config":             "old",
				".deleted/2026-01-01/dokuwiki/other/config":           "other",
				".deleted/2026-01-01/dokuwiki/x.json":                 "{}", // beside a repository
				".deleted/lost+found/" + wiki + "/config":             "no day",
				".deleted/2026-01-01/x":                               "no repository",
				wiki + "/config":                                      "new",
				wiki + "/index/" + blobB:                              "there already",
			} {
				write(t, filepath.Join(dir, name), text)
			}
			before := tree(t, dir)
			list, err := s.Held(t.Context(), "a", "")
			want := []Deleted{
				{Day: "2026-01-02", Repository: wiki, Objects: 2, Bytes: 3, Until: "2026-01-17"},
				{Day: "2026-01-01", Repository: "dokuwiki", Objects: 1, Bytes: 2, Until: "2026-01-16"},
				{Day: "2026-01-01", Repository: wiki, Objects: 3, Bytes: 18, Until: "2026-01-16"},
				{Day: "2026-01-01", Repository: "dokuwiki/other", Objects: 1, Bytes: 5, Until: "2026-01-16"},
			}
			if err != nil || fmt.Sprint(list) != fmt.Sprint(want) {
				t.Errorf("Held = %v, %v; want %v", list, err, want)
			}
			all := "2026-01-02 " + wiki + " 2+0\n2026-01-01 dokuwiki 1+0\n2026-01-01 " + wiki + " 0+2 config\n2026-01-01 dokuwiki/other 1+0\n"
			list, err = s.Undelete(t.Context(), Undeletion{ID: "a", All: true, DryRun: true})
			if err != nil || says(list) != all {
				t.Errorf("Undelete, dry run = %s, %v; want %s", says(list), err, all)
			}
			if after := tree(t, dir); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("a dry run made %v of %v", after, before)
			}
			for _, step := range []struct {
				u    Undeletion
				want string
			}{
				{Undeletion{Days: []string{"2025-12-31"}}, ""},
				{Undeletion{All: true, Repository: "none"}, ""},
				{Undeletion{Days: []string{"2026-01-01"}, Repository: "dokuwiki/other/"}, "2026-01-01 dokuwiki/other 1+0\n"},
				{Undeletion{Days: []string{"2026-01-02"}}, "2026-01-02 " + wiki + " 2+0\n"},
				{Undeletion{All: true}, "2026-01-01 dokuwiki 1+0\n2026-01-01 " + wiki + " 0+2 config\n"},
				{Undeletion{All: true}, "2026-01-01 " + wiki + " 0+2 config\n"},
			} {
				step.u.ID = "a"
				if list, err := s.Undelete(t.Context(), step.u); err != nil || says(list) != step.want {
					t.Errorf("Undelete(%+v) = %s, %v; want %s", step.u, says(list), err, step.want)
				}
			}
			got := tree(t, dir)
			for name, text := range map[string]string{
				wiki + "/data/0a/" + blobA: "a", wiki + "/snapshots/" + blobB: "bb", wiki + "/index/" + blobB: "there already", wiki + "/config": "new",
				"dokuwiki/other/config": "other", "dokuwiki/x.json": "{}", ".deleted/2026-01-01/" + wiki + "/config": "old",
				".deleted/2026-01-01/" + wiki + "/index/" + blobB: "there already", ".deleted/2026-01-01/" + wiki + "/snapshots/" + blobB: "bb",
				".deleted/lost+found/" + wiki + "/config": "no day",
				".deleted/2026-01-01/x":                   "no repository",
			} {
				if got[name] != "0600 "+text {
					t.Errorf("%s = %q; want %q", name, got[name], text)
				}
				delete(got, name)
			}
			if len(got) > 0 {
				t.Errorf("and there is %v", got)
			}
		})
	}
}

func TestUndeleteRefuses(t *testing.T) {
	s, dir := heldIn(t, "local")
	mustAdd(t, s, Request{ID: "rest", Provider: "rest", Parameters: map[string]string{"url": "http://127.0.0.1:1/x"}})
	mustAdd(t, s, local("away", filepath.Join(dir, "away")))
	for _, c := range []struct {
		u    Undeletion
		want string
	}{
		{Undeletion{ID: "a", Days: []string{"yesterday"}}, `--day: "yesterday" is no day; want one as in 2026-01-02`},
		{Undeletion{ID: "none", All: true}, "there is no destination none"},
		{Undeletion{ID: "rest", All: true}, "run this on its host"},
		{Undeletion{ID: "away", All: true}, "is its disk mounted?"},
	} {
		if _, err := s.Undelete(t.Context(), c.u); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Undelete(%+v) = %v; want %s", c.u, err, c.want)
		}
	}
	write(t, filepath.Join(dir, ".deleted/2026-01-01", wiki, "config"), "x")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStop)
	if _, err := s.Undelete(ctx, Undeletion{ID: "a", All: true}); !errors.Is(err, errStop) {
		t.Errorf("Undelete, cancelled: %v", err)
	}
}

// TestUndeleteLeadsNowhere: who may write into a repository cannot have files moved elsewhere by a link.
func TestUndeleteLeadsNowhere(t *testing.T) {
	s, dir := heldIn(t, "local")
	outside := t.TempDir()
	write(t, filepath.Join(dir, ".deleted/2026-01-01", wiki, "keys", blobA), "x")
	write(t, filepath.Join(dir, ".deleted/2026-01-01", wiki, "config"), "x")
	write(t, filepath.Join(dir, wiki, "index", blobA), "x")
	for link, target := range map[string]string{wiki + "/keys": outside, wiki + "/config": outside + "/config", ".deleted/2026-01-02": outside} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.Undelete(t.Context(), Undeletion{ID: "a", All: true})
	if err == nil || says(list) != "2026-01-01 "+wiki+" 0+0 config\n" {
		t.Errorf("Undelete = %s, %v; want an error", says(list), err)
	}
	if left := tree(t, outside); len(left) > 0 {
		t.Errorf("outside there is %v", left)
	}
}

// TestUndeleteOwner: a folder that has to be made belongs to whom the repository belongs.
func TestUndeleteOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	defer unix.Umask(unix.Umask(0o077))
	s, dir := heldIn(t, "local")
	write(t, filepath.Join(dir, ".deleted/2026-01-01", wiki, "data/0a", blobA), "x")
	write(t, filepath.Join(dir, ".deleted/2026-01-01/mail/one/config"), "x")
	write(t, filepath.Join(dir, wiki, "config"), "x")
	if err := os.Chown(filepath.Join(dir, wiki), 12345, 12346); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Undelete(t.Context(), Undeletion{ID: "a", All: true}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		wiki + "/data": "drwx------ 12345 12346", wiki + "/data/0a": "drwx------ 12345 12346", "mail": "drwxr-xr-x 0 0", "mail/one": "drwx------ 0 0",
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if got := fmt.Sprint(info.Mode(), st.Uid, st.Gid); got != want {
			t.Errorf("%s is %s; want %s", name, got, want)
		}
	}
}

// TestRename: nothing is replaced, whatever the file system can do.
func TestRename(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/from/x", "held")
	write(t, dir+"/to/x", "there")
	var fds [2]int
	for i, name := range []string{"from", "to"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fds[i] = int(f.Fd())
	}
	if err := rename(fds[0], fds[1], "x"); !errors.Is(err, unix.EEXIST) || read(t, dir+"/to/x") != "there" || read(t, dir+"/from/x") != "held" {
		t.Errorf("rename = %v; want %v", err, unix.EEXIST)
	}
	if err := rename(fds[0], fds[1], "y"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("rename of nothing = %v; want %v", err, unix.ENOENT)
	}
}

// TestUndeleteKeepsSecrets: what rclone says of them is masked.
func TestUndeleteKeepsSecrets(t *testing.T) {
	fakeRclone(t, "echo 'ERROR : key "+marker+" is wrong' >&2; exit 1")
	s := testStore(t)
	mustAdd(t, s, b2("a", "b"))
	if _, err := s.Held(t.Context(), "a", ""); err == nil || err.Error() != "destination a: key *** is wrong" {
		t.Errorf("Held = %v", err)
	}
}
