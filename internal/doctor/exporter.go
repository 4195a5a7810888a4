package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// metrics looks whether the folder is there, and node_exporter reads it.
func (d *Doctor) metrics(ctx context.Context) []Finding {
	const subject = "metrics"
	dir := d.Config.Metrics.TextfileDir
	if dir == "" {
		if d.mayLook() && !d.Paths.User {
			return []Finding{warning(subject, "install node_exporter, or set textfile-dir in [metrics]", "none are written: nothing raises an alert when a backup fails")}
		}
		return []Finding{ok(subject, "none are written")}
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{problem(subject, "install -d -m 755 "+dir, "the folder %s is not there, so none are written", dir)}
	case err != nil:
		return []Finding{warning(subject, "", "not looked at: %v", err)}
	case !info.IsDir():
		return []Finding{problem(subject, "set textfile-dir in [metrics]", "%s is no folder", dir)}
	case info.Mode().Perm()&0o005 != 0o005:
		return []Finding{warning(subject, "chmod o+rx "+dir, "node_exporter, which is another user, may not look into %s", dir)}
	}
	exporters := exportersOf(d.proc())
	if len(exporters) == 0 {
		return []Finding{warning(subject, "start node_exporter with --collector.textfile.directory="+dir, "they are written into %s, but no node_exporter runs here", dir)}
	}
	for _, e := range exporters {
		if filepath.Clean(e.folder) == filepath.Clean(dir) {
			return []Finding{d.scrape(ctx, e, dir)}
		}
	}
	read := exporters[0].folder
	if read == "" {
		return []Finding{problem(subject, "start it with --collector.textfile.directory="+dir, "they are written into %s, which node_exporter does not read", dir)}
	}
	return []Finding{problem(subject, fmt.Sprintf("set textfile-dir = %q in [metrics], or start it with --collector.textfile.directory=%s", read, dir),
		"they are written into %s, but node_exporter reads %s", dir, read)}
}

// exporter is a node_exporter that runs.
type exporter struct {
	folder  string // "": it reads none
	address string // that it listens at
}

const (
	exporterAddress = ":9100" // unless told otherwise
	debianFolder    = "/var/lib/prometheus/node-exporter"
	maxCommandLine  = 64 << 10
	maxMetrics      = 32 << 20
)

// exportersOf finds the node_exporters that run, in the kernel's list of processes.
func exportersOf(proc string) []exporter {
	paths, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "cmdline"))
	var found []exporter
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			continue // it has ended
		}
		data, err := io.ReadAll(io.LimitReader(f, maxCommandLine))
		f.Close()
		if err != nil {
			continue
		}
		if e, ok := parseExporter(data); ok && !slices.Contains(found, e) {
			found = append(found, e)
		}
	}
	return found
}

// parseExporter reads a command line, whose words end with zero bytes.
func parseExporter(data []byte) (exporter, bool) {
	words := strings.Split(string(bytes.TrimRight(data, "\x00")), "\x00")
	e := exporter{address: exporterAddress}
	switch filepath.Base(words[0]) {
	case "node_exporter":
	case "prometheus-node-exporter":
		e.folder = debianFolder // as Debian builds it
	default:
		return e, false
	}
	for i, word := range words[1:] {
		name, value, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
		if !strings.HasPrefix(word, "-") {
			continue
		}
		if !hasValue && i+2 < len(words) {
			value = words[i+2]
		}
		switch name {
		case "collector.textfile.directory":
			e.folder = value
		case "web.listen-address":
			e.address = value
		case "no-collector.textfile":
			return exporter{address: e.address}, true
		}
	}
	return e, true
}

// scrape asks a node_exporter for its metrics, as Prometheus does.
func (d *Doctor) scrape(ctx context.Context, e exporter, dir string) Finding {
	const subject = "metrics"
	host, port, err := net.SplitHostPort(e.address)
	if err != nil {
		return ok(subject, "node_exporter reads %s; it was not asked: it listens at %s", dir, e.address)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	url := "http://" + net.JoinHostPort(host, port) + "/metrics"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return warning(subject, "", "%v", err)
	}
	answer, err := (&http.Client{Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return warning(subject, "", "node_exporter reads %s, but does not answer: %v", dir, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return ok(subject, "node_exporter reads %s; it was not asked: %s wants a password or https", dir, url)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxMetrics))
	if err != nil {
		return warning(subject, "", "node_exporter reads %s, but does not answer: %v", dir, err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "backup*.prom"))
	shown := bytes.Contains(text, []byte("\nnode_backup_status{"))
	switch {
	case bytes.Contains(text, []byte("\nnode_textfile_scrape_error 1")):
		return problem(subject, "see its log: journalctl -u prometheus-node-exporter", "node_exporter finds a mistake in a file of %s, and drops metrics", dir)
	case len(files) > 0 && !shown:
		return problem(subject, "see its log: journalctl -u prometheus-node-exporter", "%s are in %s, but node_exporter does not show them", count(len(files), "file"), dir)
	case shown:
		return ok(subject, "node_exporter reads %s and shows them", dir)
	}
	return ok(subject, "node_exporter reads %s; no backup has run yet", dir)
}
