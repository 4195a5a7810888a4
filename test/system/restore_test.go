//go:build systemd

package system

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What was saved, directly and through the gateway, is listed and comes back as it was, whoever owns it; never over something.
func TestRestore(t *testing.T) {
	h := newHost(t)
	h.behindGateway(h.module("tree", "tree", "[[module.tree.dump]]\nfilename = \"list.txt\"\ncommand = [\"ls\", \"data\"]\n") + h.backup("near", `"tree"`, "") + h.to("vault", "held", `"tree"`, "") +
		h.to("cloud", "far", `"tree"`, ""))
	data := h.dir("tree") + "/data"
	h.write(data+"/odd\nname \xff", "odd\n", 0o640)
	h.write(data+"/empty", "", 0o600)
	h.write(data+"/setuid", "#!/bin/sh\n", 0o644)
	h.must("ln", data+"/page.txt", data+"/hard")
	h.must("ln", "-s", "page.txt", data+"/soft")
	h.must("truncate", "-s", "64M", data+"/sparse")
	h.must("chown", "-R", "tree:", data)
	h.must("chmod", "4750", data+"/setuid")
	if err := unix.Setxattr(data+"/page.txt", "user.colour", []byte("blue"), 0); err != nil {
		t.Log("no extended attributes here: " + err.Error())
	}
	archive := func(dir string) string {
		return h.must("tar", "-C", dir, "--sort=name", "--xattrs", "--xattrs-include=user.*",
			"--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "-c", ".")
	}
	want := archive(data)
	for _, id := range []string{"near", "held", "far"} {
		h.must("systemctl", "start", "backup@"+id+".service")
	}
	listed := h.must("restore-backup", "list")
	for _, destination := range []string{"archive", "vault", "cloud"} {
		if !strings.Contains(listed, destination) {
			t.Errorf("list does not show %s:\n%s", destination, listed)
		}
		target := t.TempDir() + "/restored"
		out := h.must("restore-backup", "tree", "--destination", destination, "--target", target, "--verify")
		var result struct{ Verified bool }
		if err := json.Unmarshal([]byte(out), &result); err != nil || !result.Verified {
			t.Errorf("from %s: %s, %v; want a verified result", destination, out, err)
		}
		restored := find(t, target, "data")
		if archive(restored) != want {
			t.Errorf("from %s: what came back differs:\n%s", destination, h.must("sh", "-c", "diff -rq "+data+" "+restored+"; ls -lR "+data+" "+restored))
		}
		if dump := h.read(find(t, target, "list.txt")); !strings.Contains(dump, "page.txt") {
			t.Errorf("from %s: the dump is %q", destination, dump)
		}
		h.exits(1, "restore-backup", "tree", "--destination", destination, "--target", target)
		h.must("restore-backup", "check-eligibility", "tree", "--destination", destination, "--target", target+"2")
		if out := h.must("restore-backup", "browse", "tree", "--destination", destination); !strings.Contains(out, "page.txt") && !strings.Contains(out, "var") {
			t.Errorf("browse shows %s", out)
		}
	}
	if out := h.exits(2, "restore-backup", "tree"); !strings.Contains(out, "vault") {
		t.Errorf("without a destination it says %q, want the ones there are", out)
	}
	if left := h.locks("tree"); len(left) > 0 {
		t.Errorf("locks are left: %v", left)
	}
	if owner := fileOwner(t, h.repository("tree")+"/snapshots"); owner == 0 {
		t.Error("a folder of the module's repository became root's")
	}
}

// find returns the path below dir whose last part is name.
func find(t *testing.T, dir, name string) string {
	t.Helper()
	found := ""
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == name && found == "" {
			found = path
		}
		return err
	})
	if err != nil || found == "" {
		t.Fatalf("there is no %s below %s: %v", name, dir, err)
	}
	return found
}
