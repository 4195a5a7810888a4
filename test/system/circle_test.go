//go:build systemd

package system

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/status"
)

const (
	// bareMachine is in the environment on a machine that has nothing but what a package installs.
	bareMachine = "SDBACKUP_BARE_MACHINE"
	// told is what the first machine tells the second for comparison.
	told = "/srv/told"

	notesDir    = "/var/lib/notes"
	notesSocket = "/run/notes.sock"
	oddDir      = "/var/lib/odd"
	manyFiles   = 100000
)

// picture is what the first machine had.
type picture struct {
	Notes string            // the application's answer
	Trees map[string]string // of paths in Go's notation, for they are no text
}

const notesQuery = "select count(*), max(id), hex(group_concat(text)) from notes;\n"

// A machine is lost with all that it had. With the passphrase and what is at the destination a bare one becomes it again: an application
// answers with its data, and a folder of all that file systems can hold is the same.
func TestFullCircle(t *testing.T) {
	h := newHost(t)
	if os.Getenv(bareMachine) != "" {
		h.becomesNode()
		return
	}
	if err := errors.Join(os.MkdirAll(cloud, 0o700), os.MkdirAll(told, 0o700)); err != nil {
		t.Fatal(err)
	}
	h.write(nodeSecret, nodePassphrase+"\n", 0o600)
	h.write(rootAt, fmt.Sprintf("[cloud]\ntype = alias\nremote = %s\n", cloud), 0o600)
	t.Cleanup(func() {
		exec.Command("systemctl", "stop", "notes.socket", "notes@*.service").Run()
		for _, path := range []string{cloud, told, oddDir, notesDir, "/etc/systemd/system/notes.socket", "/etc/systemd/system/notes@.service", nodeSecret, rootAt} {
			os.RemoveAll(path)
		}
		exec.Command("systemctl", "daemon-reload").Run()
	})
	h.installNotes()
	h.write(notesDir+"/attachments/1.png", string(pseudoRandom(100000, "1.png")), 0o640)
	h.must("chown", "-R", "notes:", notesDir)
	h.ask("begin; with recursive n(i) as (select 1 union all select i+1 from n where i < 500) insert into notes select i, 'note ' || i || char(10, 8364, 39) || hex(zeroblob(i)) from n; commit;\n")
	h.makeOddTree()

	h.configure(`[node]
name = "web1"
passphrase-file = "` + nodeSecret + `"

[destination.cloud]
repository = "rclone:cloud:backups"
rclone-config = "` + rootAt + `"
password-file = "` + passwordFile + `"

[module.notes]
type = "notes"
uuid = "` + uuid("notes") + `"
user = "notes"
directory = "` + notesDir + `"
include = ["attachments"]
units = ["notes.socket"]
restore-state = ["/usr/lib/notes-load"]
[[module.notes.dump]]
filename = "notes.sql"
command = ["sqlite3", "live/notes.db", ".dump"]

[module.odd]
type = "tree"
uuid = "` + uuid("odd") + `"
directory = "` + oddDir + `"
include = ["data"]

` + h.to("cloud", "nightly", `"notes", "odd"`, ""))
	h.must("schedule-backup", "start-timers")
	had := picture{Notes: h.ask(notesQuery), Trees: h.trees()}
	h.must("systemctl", "start", "backup@nightly.service")
	if last := h.lastRun("nightly"); last.Outcome != status.Success || last.NodeCopy == nil || last.NodeCopy.Outcome != status.Success {
		t.Fatalf("the run is %+v, its copy %+v", last, last.NodeCopy)
	}
	h.must("systemctl", "stop", "backup-gateway.socket", "backup-gateway.service")
	data, err := json.Marshal(had)
	if err != nil {
		t.Fatal(err)
	}
	h.write(told+"/picture", string(data), 0o600)

	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(bareMachine, "1")
	b := h.start(h.machine([]string{"--bind", cloud, "--bind-ro", told}, exe, "-test.run=TestFullCircle", "-test.v")...)
	if out := h.wait(b, 0); !strings.Contains(out, "--- PASS: TestFullCircle") {
		t.Errorf("the bare machine says\n%s", out)
	}
}

// becomesNode is the rest of the test, on the bare machine.
func (h *host) becomesNode() {
	h.Helper()
	var had picture
	h.json(told+"/picture", &had)
	for _, path := range []string{notesDir, oddDir, "/etc/systemd/system/notes.socket", state + "/status", nodeSecret} {
		if _, err := os.Lstat(path); err == nil {
			h.Fatalf("this machine is not bare: it has %s", path)
		}
	}
	os.RemoveAll("/etc/sdbackup") // of the other tests

	h.write(rescueSecret, nodePassphrase+"\n", 0o600)
	h.write("/root/x.conf", fmt.Sprintf("[x]\ntype = alias\nremote = %s\n", cloud), 0o600)
	h.must("systemctl", "start", "backup-gateway.socket")
	h.must("backup-destination", "add", "rescue", "--provider=rclone", "--rclone-config=/root/x.conf", "--path=backups")
	h.must("restore-backup", "node", "--destination=rescue", "--passphrase-file="+rescueSecret, "--yes")
	h.must("backup-destination", "remove", "rescue", "--forget-password")
	if !h.unitActive("backup@nightly.timer") {
		h.Error("there is no timer")
	}
	// All that is missing is told at once.
	out := h.exits(1, "restore-backup", "check-eligibility", "notes", "--in-place")
	for _, want := range []string{"user notes", notesDir, "notes.socket"} {
		if !strings.Contains(out, want) {
			h.Errorf("before the application is installed it says\n%s\nwant %q", out, want)
		}
	}
	h.must("useradd", "--system", "--no-create-home", "--uid=952", "--shell=/usr/sbin/nologin", "notes")
	h.installNotes()
	if out := h.exits(1, "restore-backup", "notes", "--in-place"); !strings.Contains(out, "usermod -u 951 notes") {
		h.Errorf("of a user with another number it says\n%s", out)
	}
	h.must("usermod", "-u", "951", "notes")
	h.must("groupmod", "-g", "951", "notes")
	h.must("chown", "-R", "notes:", notesDir)
	if err := os.Mkdir(oddDir, 0o755); err != nil {
		h.Fatal(err)
	}
	// Somebody uses it meanwhile.
	client := h.dial()
	defer client.Close()
	fmt.Fprintln(client, "begin immediate; insert into notes values(7, 'lost'); select 'held';")
	if _, err := io.ReadFull(client, make([]byte, len("held\n"))); err != nil {
		h.Fatal(err)
	}
	h.must("restore-backup", "notes", "--in-place", "--verify")
	h.must("restore-backup", "odd", "--in-place", "--verify")

	if got := h.ask(notesQuery); got != had.Notes {
		h.Errorf("the application answers %.200s; want %.200s", got, had.Notes)
	}
	if failed := h.must("systemctl", "list-units", "--failed", "--no-legend", "notes*"); failed != "" {
		h.Errorf("failed units are left:\n%s", failed)
	}
	now := h.trees()
	differences := 0
	for path, want := range had.Trees {
		if got := now[path]; got != want {
			if differences++; differences < 20 {
				h.Errorf("%s is\n%s; want\n%s", path, got, want)
			}
		}
		delete(now, path)
	}
	for path, got := range now {
		if differences++; differences < 20 {
			h.Errorf("%s is there: %s", path, got)
		}
	}
	h.must("systemctl", "start", "backup@nightly.service")
	if last := h.lastRun("nightly"); last.Outcome != status.Success {
		h.Errorf("the next run is %+v", last)
	}
	for _, id := range []string{"notes/" + uuid("notes"), "tree/" + uuid("odd")} {
		if n := h.count(cloud + "/backups/" + id); n < 2 {
			h.Errorf("%s has %d snapshots; want those of both machines", id, n)
		}
	}
}

// installNotes installs an application as its package would: it answers SQL over a socket, and its database is empty.
func (h *host) installNotes() {
	h.Helper()
	if exec.Command("id", "notes").Run() != nil {
		h.must("useradd", "--system", "--no-create-home", "--uid=951", "--shell=/usr/sbin/nologin", "notes")
	}
	h.write("/etc/systemd/system/notes.socket", "[Socket]\nListenStream="+notesSocket+"\nAccept=yes\n", 0o644)
	h.write("/etc/systemd/system/notes@.service", "[Service]\nUser=notes\nStandardInput=socket\nStandardError=journal\n"+
		"ExecStart=sqlite3 -batch "+notesDir+"/live/notes.db\n", 0o644)
	h.write("/usr/lib/notes-load", "#!/bin/sh -e\nrm -f live/notes.db*\nsqlite3 -bail live/notes.db < \"$RESTORE_DUMPS/notes.sql\"\n", 0o755)
	for _, dir := range []string{"/live", "/attachments"} {
		if err := os.MkdirAll(notesDir+dir, 0o750); err != nil {
			h.Fatal(err)
		}
	}
	h.must("sqlite3", notesDir+"/live/notes.db", "pragma journal_mode = wal; create table notes(id integer primary key, text);")
	h.must("chown", "-R", "notes:", notesDir)
	h.must("systemctl", "daemon-reload")
	h.must("systemctl", "start", "notes.socket")
}

func (h *host) dial() net.Conn {
	h.Helper()
	c, err := net.Dial("unix", notesSocket)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(time.Minute))
	}
	if err != nil {
		h.Fatal(err)
	}
	return c
}

// ask has the application execute SQL.
func (h *host) ask(sql string) string {
	h.Helper()
	c := h.dial()
	defer c.Close()
	if _, err := io.WriteString(c, sql); err != nil {
		h.Fatal(err)
	}
	if err := c.(*net.UnixConn).CloseWrite(); err != nil {
		h.Fatal(err)
	}
	out, err := io.ReadAll(c)
	if err != nil {
		h.Fatal(err)
	}
	return string(out)
}

// makeOddTree makes a folder with something of all that file systems hold.
func (h *host) makeOddTree() {
	h.Helper()
	at := func(name string) string { return oddDir + "/data/" + name }
	must := func(errs ...error) {
		h.Helper()
		if err := errors.Join(errs...); err != nil {
			h.Fatal(err)
		}
	}
	for i := range manyFiles {
		dir := at(fmt.Sprintf("many/%d", i/1000))
		if i%1000 == 0 {
			must(os.MkdirAll(dir, 0o755))
		}
		must(os.WriteFile(fmt.Sprintf("%s/%d", dir, i), fmt.Append(nil, i%5000), 0o644))
	}
	names := []string{"new\nline", "not \xff\xfe UTF-8 \xc3", "tab\tand \x1b[31mcolour", " spaces ", "-n", "*", "[a-z]?", "back\\slash", `"quo'ted"`, "$HOME", "ü and ü", "{a,b}", "~", strings.Repeat("x", 255)}
	for _, name := range names {
		must(os.MkdirAll(at("names/"+name+"/"+name), 0o750), os.WriteFile(at("names/"+name+"/"+name+"/"+name), []byte(name), 0o640),
			os.Symlink(strings.ToValidUTF8(name, "?"), at("names/"+name+"/link")))
	}
	must(os.MkdirAll(at("kinds/empty folder"), 0o711), os.WriteFile(at("kinds/empty"), nil, 0o600), os.WriteFile(at("kinds/setuid"), []byte("#!/bin/sh\n"), 0o644),
		os.Symlink("/does/not/exist", at("kinds/dangling")), os.Symlink(strings.Repeat("d/", 1500), at("kinds/long")), os.Symlink("..", at("kinds/up")),
		unix.Mkfifo(at("kinds/fifo"), 0o622), unix.Mknod(at("kinds/device"), unix.S_IFCHR|0o640, int(unix.Mkdev(1, 3))))
	for _, name := range []string{"first", "second", "../names/third"} {
		if name != "first" {
			must(os.Link(at("kinds/first"), at("kinds/"+name)))
			continue
		}
		must(os.WriteFile(at("kinds/first"), []byte("one file of three names\n"), 0o644))
	}
	must(os.Lchown(at("kinds/setuid"), 4711, 4712), os.Chmod(at("kinds/setuid"), os.ModeSetuid|os.ModeSetgid|0o755), os.Lchown(at("kinds/up"), 4713, 4714),
		os.Chmod(at("kinds/empty folder"), os.ModeSticky|os.ModeSetgid|0o770), os.WriteFile(at("kinds/unreadable"), []byte("root can"), 0o000))

	// 1 MiB of data between two holes, and nothing but a hole.
	f, err := os.Create(at("kinds/sparse"))
	must(err)
	_, err = f.WriteAt(pseudoRandom(1<<20, "sparse"), 64<<20)
	must(err, f.Truncate(256<<20), f.Close())
	must(os.WriteFile(at("kinds/hole"), nil, 0o644), os.Truncate(at("kinds/hole"), 1<<30))

	// acl(5) in the notation of the kernel: user::rw-, user:4711:r--, group::r--, mask::r--, other::---
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, entry := range [][3]uint32{{1, 6, 1<<32 - 1}, {2, 4, 4711}, {4, 4, 1<<32 - 1}, {16, 4, 1<<32 - 1}, {32, 0, 1<<32 - 1}} {
		acl = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(acl, uint16(entry[0])), uint16(entry[1]))
		acl = binary.LittleEndian.AppendUint32(acl, entry[2])
	}
	must(os.WriteFile(at("kinds/acl"), []byte("for some\n"), 0o640), os.Mkdir(at("kinds/default acl"), 0o755),
		unix.Setxattr(at("kinds/acl"), "system.posix_acl_access", acl, 0), unix.Setxattr(at("kinds/default acl"), "system.posix_acl_default", acl, 0),
		unix.Setxattr(at("kinds/acl"), "user.colour", []byte("blue\x00\xff"), 0), unix.Setxattr(at("kinds/empty"), "user.none", nil, 0),
		unix.Setxattr(at("kinds/empty folder"), "user.of a folder", pseudoRandom(2000, "attribute"), 0))
	// What the restic of Debian 12 does not save.
	if version := h.must("restic", "version"); !strings.Contains(version, "restic 0.14.") && !strings.Contains(version, "restic 0.15.") {
		must(unix.Lsetxattr(at("kinds/dangling"), "trusted.of.a.link", []byte("x"), 0), os.Symlink("not \xff UTF-8", at("kinds/odd")))
	}

	ages := map[string]time.Time{
		"kinds/empty": time.Unix(1, 1), "kinds/acl": time.Unix(-86400, 999999999), "kinds/dangling": time.Unix(981173106, 7), "kinds/fifo": time.Unix(4102444800, 123456789),
		"names/new\nline": time.Unix(1e9, 0), "kinds/empty folder": time.Unix(1e9, 1), "": time.Unix(1e9, 2),
	}
	for name, age := range ages {
		stamp := unix.NsecToTimespec(age.UnixNano())
		must(unix.UtimesNanoAt(unix.AT_FDCWD, at(name), []unix.Timespec{stamp, stamp}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// trees tells of every file and folder of the modules what is to come back.
func (h *host) trees() map[string]string {
	h.Helper()
	all := map[string]string{}
	links := map[uint64]string{}
	for _, top := range []string{oddDir + "/data", notesDir + "/attachments"} {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			text := fmt.Sprintf("mode %o of %d:%d at %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
			if !d.IsDir() && st.Nlink > 1 {
				if links[st.Ino] == "" {
					links[st.Ino] = path
				}
				text += fmt.Sprintf(" one of %d with %q", st.Nlink, links[st.Ino])
			}
			switch st.Mode & syscall.S_IFMT {
			case syscall.S_IFREG:
				data, err := content(path)
				if err != nil {
					return err
				}
				text += fmt.Sprintf(" size %d %s", st.Size, data)
			case syscall.S_IFLNK:
				target, err := os.Readlink(path)
				if err != nil {
					return err
				}
				text += fmt.Sprintf(" to %q", target)
			case syscall.S_IFCHR:
				text += fmt.Sprint(" device ", st.Rdev)
			}
			attributes, err := xattrs(path)
			all[fmt.Sprintf("%q", path)] = text + attributes
			return err
		})
		if err != nil {
			h.Fatal(err)
		}
	}
	return all
}

// restZeros is what restic may write of zeros in place of a hole: it decides by chunks of up to 8 MiB, on both sides of data.
const restZeros = 16 << 20

// content is a file's data with where it lies: what is between are holes, but for some zeros beside the data.
func content(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text := ""
	zeros := 0
	for end := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return text, nil
		}
		if err != nil {
			return "", err
		}
		if end, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE); err != nil {
			return "", err
		}
		data := make([]byte, end-from)
		if _, err := f.ReadAt(data, from); err != nil {
			return "", err
		}
		whole := len(data)
		if whole > 64 {
			data = bytes.TrimLeft(data, "\x00")
			from = end - int64(len(data))
			data = bytes.TrimRight(data, "\x00")
		}
		if zeros += whole - len(data); zeros > restZeros {
			return "", fmt.Errorf("%s has %d bytes of zeros that could be holes", path, zeros)
		}
		until := from + int64(len(data))
		if len(data) > 64 {
			data = fmt.Appendf(nil, "%x", sha256.Sum256(data))
		}
		if len(data) > 0 {
			text += fmt.Sprintf("[%d-%d %q]", from, until, data)
		}
	}
}

// xattrs tells a file's extended attributes, but for those of the system that it is on.
func xattrs(path string) (string, error) {
	list := make([]byte, 65536)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return "", err
	}
	text := ""
	names := strings.FieldsFunc(string(list[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	for _, name := range names {
		if strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 65536)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf(" %s=%x", name, value[:n])
	}
	return text, nil
}
