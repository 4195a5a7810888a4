package restic

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestLockIsStale(t *testing.T) {
	now := time.Date(2026, 7, 14, 12, 0, 0, 0, time.UTC)
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		lock Lock
		want bool
	}{
		"mine":              {Lock{Time: now, Host: "here", PID: os.Getpid()}, false},
		"of the dead":       {Lock{Time: now, Host: "here", PID: ended.Process.Pid}, true},
		"of another host":   {Lock{Time: now, Host: "there", PID: ended.Process.Pid}, false},
		"not renewed":       {Lock{Time: now.Add(-31 * time.Minute), Host: "there", PID: 1}, true},
		"just now":          {Lock{Time: now.Add(-29 * time.Minute), Host: "there", PID: 1}, false},
		"without a process": {Lock{Time: now, Host: "here"}, false},
	} {
		if got := c.lock.Stale(now, "here"); got != c.want {
			t.Errorf("%s: Stale = %t; want %t", name, got, c.want)
		}
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-21T13:23:45.8Z","exclusive":false,"hostname":"web1","username":"root","pid":7,"uid":0,"gid":0}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, err := parseLock(data); err != nil && l.Stale(time.Time{}, "x") {
			t.Error("what cannot be read is stale")
		}
	})
}
