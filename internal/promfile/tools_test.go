package promfile

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/status"
)

// program returns the path of a program that a test runs, and skips the test where there is none; where CI=true that is a
// failure.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip(err)
	return ""
}

func TestPromtoolLikesTheMetrics(t *testing.T) {
	promtool := program(t, "promtool")
	for name, sample := range samples() {
		cmd := exec.Command(promtool, "check", "metrics")
		cmd.Stdin = bytes.NewReader(format(t, sample))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: promtool check metrics: %v\n%s", name, err, out)
		}
	}
}

// startExporter starts node_exporter on the folder, at a port of its own choice, and returns the URL of its metrics.
func startExporter(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command(program(t, "prometheus-node-exporter"), "--collector.disable-defaults", "--collector.textfile",
		"--collector.textfile.directory="+dir, "--web.listen-address=127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() }) // ends a wait in vain
	t.Cleanup(func() {
		kill.Stop()
		cmd.Process.Kill()
		cmd.Wait()
	})
	listening := regexp.MustCompile(`Listening on.* address=(\S+)`)
	var log strings.Builder
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			go io.Copy(io.Discard, stderr)
			return "http://" + m[1] + "/metrics"
		}
		log.WriteString(lines.Text() + "\n")
	}
	t.Fatalf("node_exporter does not listen:\n%s", log.String())
	return ""
}

func scrape(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("scrape: %s, %v\n%s", resp.Status, err, body)
	}
	return string(body)
}

// The real collector, with the files of several backups in its folder, in every state that they can be in.
func TestNodeExporter(t *testing.T) {
	dir := t.TempDir()
	url := startExporter(t, dir)
	expect := func(when string, lines ...string) {
		t.Helper()
		text := scrape(t, url)
		for _, line := range lines {
			if !strings.Contains("\n"+text, "\n"+line+"\n") {
				t.Errorf("%s: no line\n%s\nin\n%s", when, line, text)
			}
		}
	}

	first, success, failed := samples()["first-run"], samples()["success"], samples()["failed"]
	conflict, partial := samples()["conflict"], samples()["partial"]
	write(t, dir, first)
	expect("before the first verdict", "node_textfile_scrape_error 0", `node_backup_status{id="1",name="Nightly to the archive"} -1`)

	odd := FromRecords("4", "a \"quoted\" \\ name\nof two lines, with \xff and \x00 and ü", nil, nil, false, time.Time{})
	failed.ID, failed.Name = "2", "Hourly"
	for _, sample := range []Sample{success, failed, conflict, partial, odd} {
		write(t, dir, sample)
	}
	// What a killed writer leaves behind is not read.
	if err := os.WriteFile(dir+"/.backup1.prom123456", []byte("node_backup_status{"), 0o644); err != nil {
		t.Fatal(err)
	}
	all := []string{
		"node_textfile_scrape_error 0",
		"# HELP node_backup_status " + backupMetrics[0].help,
		"# TYPE node_backup_module_cpu_seconds_total counter",
		`node_backup_status{id="1",name="Nightly to the archive"} 1`,
		`node_backup_status{id="2",name="Hourly"} 0`,
		`node_backup_status{id="web.2-a",name="Web"} 2`,
		`node_backup_status{id="3",name="Weekly"} 1`,
		"node_backup_status{id=\"4\",name=\"a \\\"quoted\\\" \\\\ name\\nof two lines, with \uFFFD and \x00 and ü\"} -1",
		`node_backup_module_status{id="2",module="mail1",name="Hourly"} 0`,
		`node_backup_module_status{id="2",module="wiki1",name="Hourly"} 1`,
		`node_backup_module_lock_wait_seconds{id="web.2-a",module="mail1",name="Web"} 3600`,
		`node_backup_module_retention_status{id="3",module="wiki1",name="Weekly"} 0`,
		`node_backup_module_stale_locks_removed_total{id="3",module="wiki1",name="Weekly"} 2`,
		`node_backup_module_partial{id="3",module="wiki1",name="Weekly"} 1`,
		`node_backup_next_run_timestamp_seconds{id="1",name="Nightly to the archive"} 1.7725032e+09`,
	}
	expect("with five files", all...)

	success.Running, success.Status = true, status.Failed
	write(t, dir, success)
	expect("after a failure, while the next run is under way", "node_textfile_scrape_error 0",
		`node_backup_status{id="1",name="Nightly to the archive"} 0`, `node_backup_running{id="1",name="Nightly to the archive"} 1`)

	if err := Remove(dir, "2"); err != nil {
		t.Fatal(err)
	}
	if text := scrape(t, url); strings.Contains(text, `id="2"`) || !strings.Contains(text, `id="3"`) {
		t.Errorf("after backup 2 is gone:\n%s", text)
	}
}
