package destination

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/s3test"
)

func TestBucket(t *testing.T) {
	address, secret := s3test.Start(t)
	s := testStore(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "pw"), "x\n")
	write(t, filepath.Join(dir, "keys"), "AWS_ACCESS_KEY_ID=owner\nAWS_SECRET_ACCESS_KEY="+secret+"\n")
	write(t, filepath.Join(dir, "others"), "AWS_ACCESS_KEY_ID=owner\nAWS_SECRET_ACCESS_KEY=planted-9Xk\n")
	write(t, filepath.Join(dir, "none"), "A=b\n")
	text := ""
	for id, d := range map[string][3]string{
		"good": {"files", "keys", address}, "gone": {"nosuch", "keys", address}, "refused": {"files", "others", address}, "keyless": {"files", "none", address},
		"dead": {"files", "keys", "127.0.0.1:1"},
	} {
		text += fmt.Sprintf("[destination.%s]\nbucket = %q\nendpoint = \"http://%s\"\npassword-file = %q\nenvironment-file = %q\n", id, d[0], d[2], dir+"/pw", dir+"/"+d[1])
	}
	write(t, filepath.Join(s.Dir, "hand.toml"), text)
	for id, want := range map[string]string{"good": "", "gone": "is not there", "refused": "secret key", "keyless": "AWS_ACCESS_KEY_ID", "dead": "refused"} {
		start := time.Now()
		v := one(t, s, id)
		if v.Failed() != (want != "") || !strings.Contains(v.Detail, want) || v.Outcome == NotTested || strings.Contains(v.Detail, "planted") {
			t.Errorf("Validate(%s) = %+v; want %q", id, v, want)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("Validate(%s) took %v", id, took)
		}
	}
	_, err := s.Undelete(t.Context(), Undeletion{ID: "good", All: true})
	if err == nil || !strings.Contains(err.Error(), "file-backup --module ID undelete") {
		t.Errorf("Undelete = %v; want who can", err)
	}
}
