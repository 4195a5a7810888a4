package restore

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/restic"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// saved is a snapshot, some hours before noon.
func saved(id string, ago int, tags ...string) restic.Snapshot {
	return restic.Snapshot{ID: id + strings.Repeat("0", 56), Time: noon.Add(-time.Duration(ago) * time.Hour), Host: "web1", Tags: tags}
}

func TestChoose(t *testing.T) {
	all := points([]restic.Snapshot{
		saved("aaaaaaa1", 50, "module=wiki1", "backup=1", "run=r1", "files"),
		saved("aaaaaaa2", 51, "module=wiki1", "backup=1", "run=r1", "dump=all.sql"),
		saved("bbbbbbb1", 26, "module=wiki1", "backup=1", "run=r2", "dump=all.sql"), // of an attempt that failed
		saved("bbbbbbb2", 25, "module=wiki1", "backup=1", "run=r2", "dump=all.sql"),
		saved("bbbbbbb3", 24, "module=wiki1", "backup=1", "run=r2", "files"),
		saved("ccccccc1", 5, "module=wiki1", "backup=2", "run=r3", "files"),
		saved("ddddddd1", 2, "module=wiki1", "backup=1", "run=r4", "dump=all.sql"), // the files of this run are not there
		saved("fffffff1", 41, "module=wiki1", "backup=3", "run=manual", "files"),   // module-backup by hand
		saved("fffffff2", 40, "module=wiki1", "backup=3", "run=manual", "files"),
		saved("eeeeeee1", 80), // restic by hand
	})
	var order []string
	for _, p := range all {
		order = append(order, p.Snapshots[0].Short())
	}
	if want := []string{"ddddddd1", "ccccccc1", "bbbbbbb3", "bbbbbbb1", "fffffff2", "fffffff1", "aaaaaaa1", "eeeeeee1"}; !slices.Equal(order, want) {
		t.Fatalf("points = %q; want %q", order, want)
	}
	for _, test := range []struct {
		name   string
		choice Choice
		want   string // the snapshots' short IDs, or what the error says
	}{
		{"latest that has the files", Choice{}, "ccccccc1"},
		{"latest by name", Choice{Snapshot: "latest"}, "ccccccc1"},
		{"of a backup", Choice{Backup: "1"}, "bbbbbbb3 bbbbbbb2"},
		{"of none", Choice{Backup: "9"}, "there is no snapshot of backup 9"},
		{"at the time itself", Choice{At: noon.Add(-24 * time.Hour)}, "bbbbbbb3 bbbbbbb2"},
		{"just before", Choice{At: noon.Add(-24*time.Hour - 1), Backup: "1"}, "aaaaaaa1 aaaaaaa2"},
		{"by hand", Choice{At: noon.Add(-40*time.Hour - 1)}, "fffffff1"},
		{"too old", Choice{At: noon.Add(-99 * time.Hour)}, "the oldest is of"},
		{"by ID", Choice{Snapshot: "AAAA"}, "aaaaaaa1 aaaaaaa2"},
		{"by a dump's ID", Choice{Snapshot: "bbbbbbb2"}, "bbbbbbb3 bbbbbbb2"},
		{"without files, by ID", Choice{Snapshot: "ddd"}, "ddddddd1"},
		{"no such ID", Choice{Snapshot: "abcd"}, "there is no snapshot abcd"},
	} {
		p, err := choose(all, test.choice)
		var got []string
		for _, s := range p.Snapshots {
			got = append(got, s.Short())
		}
		if text := strings.Join(got, " "); err == nil && text != test.want || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: choose = %s, %v; want %s", test.name, text, err, test.want)
		}
		if err != nil && Remedy(err) == "" {
			t.Errorf("%s: %v has no remedy", test.name, err)
		}
	}
	if _, err := choose(nil, Choice{}); err == nil {
		t.Error("choose of nothing did not fail")
	}
	var mistake *UsageError
	if _, err := choose(append(all, points([]restic.Snapshot{saved("cccc1111", 1)})...), Choice{Snapshot: "cccc"}); !errors.As(err, &mistake) {
		t.Errorf("choose of two = %v", err)
	}
}

func TestParseAt(t *testing.T) {
	zone := time.FixedZone("CET", 3600)
	for text, want := range map[string]string{
		"2026-11-20 03:00":          "2026-11-20T02:00:59.999999999Z",
		"2026-11-20 03:00:05":       "2026-11-20T02:00:05.999999999Z",
		"2026-11-20T03:00":          "2026-11-20T02:00:59.999999999Z",
		"2026-11-20":                "2026-11-20T22:59:59.999999999Z",
		"2026-11-20T03:00:00Z":      "2026-11-20T03:00:00Z",
		"2026-11-20T03:00:00+05:00": "2026-11-19T22:00:00Z",
	} {
		if got, err := ParseAt(text, zone); err != nil || got.UTC().Format(time.RFC3339Nano) != want {
			t.Errorf("ParseAt(%q) = %v, %v; want %s", text, got.UTC(), err, want)
		}
	}
	for _, text := range []string{"", "yesterday", "2026-13-01", "20.11.2026", "2026-11-20 25:00"} {
		var mistake *UsageError
		if got, err := ParseAt(text, zone); !errors.As(err, &mistake) {
			t.Errorf("ParseAt(%q) = %v, %v; want a mistake", text, got, err)
		}
	}
}

func TestParseListing(t *testing.T) {
	// As golang.org/x/net/webdav, rclone behind a prefix, and the gateway itself write it.
	for name, text := range map[string]string{
		"below": `<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">
<D:response><D:href>/archive/dokuwiki/</D:href><D:propstat><D:prop><D:resourcetype><D:collection xmlns:D="DAV:"/></D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<D:response><D:href>/archive/dokuwiki/one/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop></D:propstat></D:response>
<D:response><D:href>/archive/dokuwiki/a%20b.json</D:href><D:propstat><D:prop><D:resourcetype></D:resourcetype></D:prop></D:propstat></D:response></D:multistatus>`,
		"top": `<multistatus xmlns="DAV:"><response><href>http://host/one</href><propstat><prop><resourcetype><collection/></resourcetype></prop></propstat></response>
<response><href>/</href><propstat><prop><resourcetype><collection/></resourcetype></prop></propstat></response>
<response><href>/a%20b.json</href></response></multistatus>`,
	} {
		got, err := parseListing(strings.NewReader(text))
		if want := []entry{{"one", true}, {"a b.json", false}}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: parseListing = %+v, %v; want %+v", name, got, err, want)
		}
	}
	for _, bad := range []string{"", "<html>", "x"} {
		if got, err := parseListing(strings.NewReader(bad)); err == nil {
			t.Errorf("parseListing(%q) = %+v; want an error", bad, got)
		}
	}
}

func FuzzParseListing(f *testing.F) {
	f.Add(`<D:multistatus xmlns:D="DAV:"><D:response><D:href>/a/b/</D:href></D:response></D:multistatus>`)
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseListing(strings.NewReader(text))
		for _, e := range list {
			if err != nil || e.name == "" || strings.Contains(e.name, "/") && !strings.Contains(text, "%") {
				t.Errorf("parseListing(%q) = %+v, %v", text, list, err)
			}
		}
	})
}

func TestLivePlace(t *testing.T) {
	place := livePlace([]string{"/var/lib/wiki/data", "/etc/wiki"}, "/var/lib/wiki")
	for p, want := range map[string]string{
		"/data": "/var/lib/wiki/data", "/data/x": "/var/lib/wiki/data/x", "/etc/wiki/a": "/etc/wiki/a", "/etc": "", "/conf": "",
	} {
		disk, ok := place(p)
		if ok != (want != "") || ok && disk != want {
			t.Errorf("place(%s) = %s, %t; want %s", p, disk, ok, want)
		}
	}
	if disk, ok := livePlace([]string{"/srv"}, "")("/data"); ok {
		t.Errorf("place without a directory = %s", disk)
	}
}

func TestHolds(t *testing.T) {
	small := target{parent: "/mnt", inodes: 3, fs: filesystems[0x4d44]}
	var texts []string
	for _, p := range small.holds([]part{{has: counts{Files: 9, largest: 5 << 30, symlinks: 1, reserved: "/a:b", clash: "/A", longest: 300}}}) {
		texts = append(texts, p.Text)
	}
	if len(texts) != 7 {
		t.Errorf("holds = %q; want 7 problems", texts)
	}
	if list := (target{parent: "/", inodes: 99}).holds([]part{{has: counts{Files: 9, largest: 5 << 30, symlinks: 1, reserved: "/a:b"}}}); len(list) != 0 {
		t.Errorf("holds = %+v; want no problem", list)
	}
}
