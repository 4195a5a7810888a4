package doctor

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/destination"
	"sdbackup/internal/schedule"
	"sdbackup/internal/units"
)

// examined returns a doctor for a configuration of this test's own folder, where no service manager is.
func examined(t *testing.T, toml string) *Doctor {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "test.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	paths := config.Paths{User: true, Config: []string{dir}, State: dir + "/state", Lock: dir + "/lock", Cache: dir + "/cache"}
	store, err := destination.Open(paths, time.Now, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	away := func(context.Context) (*units.Conn, error) { return nil, units.ErrNoManager }
	scheduler := schedule.New(paths, slog.New(slog.DiscardHandler))
	scheduler.Dial = func(context.Context) (schedule.Manager, error) { return nil, units.ErrNoManager }
	return &Doctor{
		Paths: paths, Config: config.Load(paths.Config, nil), Store: store, Scheduler: scheduler, Getenv: os.Getenv, Now: time.Now,
		Log: slog.New(slog.DiscardHandler), Timeout: 20 * time.Second, Dial: away, Proc: dir + "/proc",
	}
}

// find returns the finding of a subject.
func find(t *testing.T, list []Finding, subject string) Finding {
	t.Helper()
	for _, f := range list {
		if f.Subject == subject {
			return f
		}
	}
	t.Fatalf("no finding about %s in %v", subject, list)
	return Finding{}
}

// A question that hangs, whatever it is told, is a finding, and the others are answered.
func TestNothingHangs(t *testing.T) {
	d := examined(t, "")
	d.Timeout = 100 * time.Millisecond
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	d.Dial = func(context.Context) (*units.Conn, error) { <-never; return nil, errors.New("over") }
	list, err := d.Examine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"systemd", "units"} {
		if f := find(t, list, subject); f.Level != Problem || !strings.Contains(f.Text, "no answer within") {
			t.Errorf("%v; want that it gave no answer", f)
		}
	}
	if f := find(t, list, "configuration"); f.Level != Warning {
		t.Errorf("%v; want a warning that there is no backup", f)
	}
}

func TestInterrupted(t *testing.T) {
	d := examined(t, "")
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := d.Examine(ctx); !errors.Is(err, stop) {
		t.Errorf("Examine = %v; want the cause", err)
	}
}

func TestParseExporter(t *testing.T) {
	for line, want := range map[string]struct {
		exporter
		ok bool
	}{
		"/usr/bin/prometheus-node-exporter":                                            {exporter{debianFolder, ":9100"}, true},
		"/usr/local/bin/node_exporter":                                                 {exporter{"", ":9100"}, true},
		"node_exporter --collector.textfile.directory=/x --web.listen-address=[::]:91": {exporter{"/x", "[::]:91"}, true},
		"node_exporter --collector.textfile.directory /x -web.listen-address :91":      {exporter{"/x", ":91"}, true},
		"node_exporter --collector.textfile.directory":                                 {exporter{"", ":9100"}, true},
		"prometheus-node-exporter --no-collector.textfile":                             {exporter{"", ":9100"}, true},
		"node_exporters":               {exporter{}, false},
		"vi node_exporter":             {exporter{}, false},
		"":                             {exporter{}, false},
		"sh -c node_exporter --x=node": {exporter{}, false},
	} {
		got, ok := parseExporter([]byte(strings.ReplaceAll(line, " ", "\x00") + "\x00"))
		if ok != want.ok || ok && got != want.exporter {
			t.Errorf("%q = %v, %t; want %v, %t", line, got, ok, want.exporter, want.ok)
		}
	}
}

func FuzzParseExporter(f *testing.F) {
	f.Add([]byte("node_exporter\x00--collector.textfile.directory=/x\x00"))
	f.Add([]byte("prometheus-node-exporter\x00--web.listen-address\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, ok := parseExporter(data); !ok && e.folder != "" {
			t.Errorf("%q is none and reads %s", data, e.folder)
		}
	})
}

// What node_exporter shows, or does not show, decides.
func TestMetrics(t *testing.T) {
	text := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(text)) }))
	defer server.Close()
	dir := t.TempDir()
	d := examined(t, "[metrics]\ntextfile-dir = \""+dir+"\"\n")
	ask := func() Finding { t.Helper(); return find(t, d.metrics(t.Context()), "metrics") }
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if f := ask(); f.Level != Warning || !strings.Contains(f.Text, "no node_exporter runs here") {
		t.Errorf("without an exporter: %v", f)
	}
	process := filepath.Join(d.Proc, "7")
	if err := os.MkdirAll(process, 0o755); err != nil {
		t.Fatal(err)
	}
	runs := func(folder string) {
		t.Helper()
		line := "node_exporter\x00--collector.textfile.directory=" + folder + "\x00--web.listen-address=" + strings.TrimPrefix(server.URL, "http://") + "\x00"
		if err := os.WriteFile(process+"/cmdline", []byte(line), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	runs("/elsewhere")
	if f := ask(); f.Level != Problem || !strings.Contains(f.Text, "but node_exporter reads /elsewhere") {
		t.Errorf("of another folder: %v", f)
	}
	runs(dir + "/")
	if f := ask(); f.Level != OK || !strings.Contains(f.Text, "no backup has run yet") {
		t.Errorf("before the first backup: %v", f)
	}
	if err := os.WriteFile(dir+"/backup1.prom", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f := ask(); f.Level != Problem || !strings.Contains(f.Text, "does not show them") {
		t.Errorf("when it cannot read the file: %v", f)
	}
	text = "x 1\nnode_backup_status{id=\"1\"} 1\nnode_textfile_scrape_error 0\n"
	if f := ask(); f.Level != OK || !strings.Contains(f.Text, "shows them") {
		t.Errorf("when all is well: %v", f)
	}
	text = "x 1\nnode_backup_status{id=\"1\"} 1\nnode_textfile_scrape_error 1\n"
	if f := ask(); f.Level != Problem || !strings.Contains(f.Text, "mistake") {
		t.Errorf("with a mistake in a file: %v", f)
	}
	server.Close()
	if f := ask(); f.Level != Warning || !strings.Contains(f.Text, "does not answer") {
		t.Errorf("when it is gone: %v", f)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if f := ask(); f.Level != Warning || f.Remedy != "chmod o+rx "+dir {
		t.Errorf("when others may not look: %v", f)
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/open", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := examined(t, "[destination.a]\nrepository = \"/x\"\npassword-file = \""+dir+"/open\"\n[destination.b]\nrepository = \"/x\"\npassword-file = \""+dir+"/none\"\n")
	layer := filepath.Join(d.Paths.Config[0], "layer.toml")
	if err := os.WriteFile(layer, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(d.Paths.Config[0], 0o777), os.Chmod(layer, 0o666)); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, f := range d.secrets(t.Context()) {
		if f.Level != Problem || f.Remedy == "" {
			t.Errorf("%v; want a problem with its remedy", f)
		}
		texts = append(texts, f.Text)
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{"open has mode 0644", "none is not there", "others may write into " + d.Paths.Config[0] + ",", "others may write into " + layer} {
		if !strings.Contains(all, want) {
			t.Errorf("nothing says %q:\n%s", want, all)
		}
	}
}

// Without root, what only root may see is said not to have been looked at, and nothing is a problem because of it.
func TestWithoutRoot(t *testing.T) {
	d := examined(t, "[destination.a]\nrepository = \"/\"\npassword-credential = \"x\"\n")
	d.Paths.User = false
	if list := d.destination(t.Context(), "a"); len(list) != 1 || list[0].Level != Warning || list[0].Remedy != "run it as root" {
		t.Errorf("%v; want that it was not looked at", list)
	}
}
