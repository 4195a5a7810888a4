package gateway

import (
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/token"
)

func (f *fixture) reconfigure(old, new string) {
	f.Helper()
	path := filepath.Join(f.dir, "config/test.toml")
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	text := strings.Replace(string(data), old, new, 1)
	if text == string(data) {
		f.Fatalf("%q is not in the configuration", old)
	}
	f.configure(text)
	f.server.fresh()
}

// A repository takes no more than its max-size, whatever is sent, and what is deleted makes room.
func TestModuleMaxSize(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, kind, "")
			f.reconfigure("type = \"dokuwiki\"", "type = \"dokuwiki\"\nmax-size = 1000")
			module, all := f.as("wiki1", token.Add, own), f.as("wiki1", token.All, own)
			top := "/archive/" + own
			f.rest(200, module, "POST", top+"/?create=true", "")
			a, b, c := strings.Repeat("a", 400), strings.Repeat("b", 400), strings.Repeat("c", 400)
			f.rest(200, module, "POST", top+"/data/"+name(a), a)
			f.rest(200, module, "POST", top+"/data/"+name(a), a) // takes nothing more
			f.rest(200, module, "POST", top+"/data/"+name(b), b)
			if text := f.rest(507, module, "POST", top+"/data/"+name(c), c); !strings.Contains(text, "wiki1 is full: 800 of 1000 bytes (max-size) are used") {
				t.Errorf("507 says %q", text)
			}
			f.rest(404, module, "HEAD", top+"/data/"+name(c), "")
			f.rest(400, module, "POST", top+"/data/"+name("not it"), "something else")
			f.rest(200, all, "DELETE", top+"/data/"+name(a), "")
			f.rest(200, module, "POST", top+"/data/"+name(c), c)
			f.rest(507, module, "POST", top+"/data/"+name(a), a)

			// Another module has no such limit, and a gateway that begins anew measures what is there.
			elsewhere := f.as("wiki2", token.Add, other)
			f.rest(200, elsewhere, "POST", "/archive/"+other+"/?create=true", "")
			f.rest(200, elsewhere, "POST", "/archive/"+other+"/data/"+name(a), a)
			f.server.Close()
			f.rest(507, module, "POST", top+"/data/"+name(a), a)
			if _, text := f.ask(f.as("web1", ""), "GET", "/metrics", ""); !strings.Contains(text, fmt.Sprintf("backup_gateway_repository_size_bytes{destination=\"archive\",repository=%q} 800", own)) ||
				!strings.Contains(text, fmt.Sprintf("backup_gateway_repository_max_size_bytes{destination=\"archive\",repository=%q} 1000", own)) {
				t.Error("the metrics do not tell what is used")
			}
		})
	}
}

// However large an upload says it is, it does not get around the limit.
func TestReserve(t *testing.T) {
	u := usage{bytes: map[string]int64{"": 400}}
	limits := []limit{{"", "the destination archive", 500}}
	for n, ok := range map[int64]bool{0: true, 101: false, math.MaxInt64: false, math.MaxInt64 - 399: false} {
		if err := u.reserve(n, limits); (err == nil) != ok {
			t.Errorf("reserve(%d): %v; want it to fit: %v", n, err, ok)
		}
	}
	if u.bytes[""] != 400 {
		t.Errorf("%d bytes are used; want 400", u.bytes[""])
	}
}

func TestDestinationMaxSize(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, kind, "max-size = 500\n")
			module, elsewhere := f.as("wiki1", token.Add, own), f.as("wiki2", token.Add, other)
			a := strings.Repeat("a", 300)
			f.rest(200, module, "POST", "/archive/"+own+"/?create=true", "")
			f.rest(200, elsewhere, "POST", "/archive/"+other+"/?create=true", "")
			f.rest(200, module, "POST", "/archive/"+own+"/data/"+name(a), a)
			if text := f.rest(507, elsewhere, "POST", "/archive/"+other+"/data/"+name(a), a); !strings.Contains(text, "the destination archive is full") {
				t.Errorf("507 says %q", text)
			}
			f.rest(200, f.as("web1", ""), "DELETE", "/archive/"+own+"/", "")
			f.rest(200, elsewhere, "POST", "/archive/"+other+"/data/"+name(a), a)
		})
	}
}

// What anybody deletes lies in the holding area until its time is over.
func TestKeepDeleted(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, kind, "keep-deleted = \"14d\"\n")
			module, all := f.as("wiki1", token.Add, own), f.as("wiki1", token.All, own)
			top := "/archive/" + own
			f.rest(200, module, "POST", top+"/?create=true", "")
			f.rest(200, module, "POST", top+"/config", "config")
			for _, kind := range []string{"data", "snapshots", "locks"} {
				f.rest(200, module, "POST", top+"/"+kind+"/"+name("x"), "x")
				f.rest(200, all, "DELETE", top+"/"+kind+"/"+name("x"), "")
				f.rest(404, module, "HEAD", top+"/"+kind+"/"+name("x"), "")
				f.rest(200, all, "DELETE", top+"/"+kind+"/"+name("x"), "")
			}
			day := filepath.Join(f.dir, "repo", config.HoldingArea, time.Now().UTC().Format(time.DateOnly))
			for path, want := range map[string]bool{
				"data/" + name("x")[:2] + "/" + name("x"): true, "snapshots/" + name("x"): true, "locks/" + name("x"): false, "config": false,
			} {
				if data, err := os.ReadFile(filepath.Join(day, own, path)); (err == nil && string(data) == "x") != want {
					t.Errorf("%s in the holding area: %v; want %v", path, err, want)
				}
			}
			// The same can be added and deleted again.
			f.rest(200, module, "POST", top+"/data/"+name("x"), "x")
			f.rest(200, all, "DELETE", top+"/data/"+name("x"), "")

			d := f.server.current().destinations["archive"]
			for _, c := range []struct {
				after time.Duration
				there bool
			}{{13 * 24 * time.Hour, true}, {16 * 24 * time.Hour, false}} {
				if err := d.purge(t.Context(), time.Now().Add(c.after)); err != nil {
					t.Fatal(err)
				}
				if _, err := os.Stat(day); (err == nil) != c.there {
					t.Errorf("after %s: %v; want it there: %v", c.after, err, c.there)
				}
			}
			f.rest(200, module, "GET", top+"/config", "")
		})
	}
}

// Whole folders, and what is deleted by WebDAV, are kept, too; and nobody but time removes what is kept.
func TestKeepDeletedFolders(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, kind, "keep-deleted = \"14d\"\n")
			node := f.as("web1", "")
			top, day := "/archive/"+own, time.Now().UTC().Format(time.DateOnly)
			held := func(path string) string {
				data, _ := os.ReadFile(filepath.Join(f.dir, "repo", config.HoldingArea, day, own, path))
				return string(data)
			}
			f.rest(200, node, "POST", top+"/?create=true", "")
			for i, remove := range []func(){
				func() { f.rest(200, node, "DELETE", top+"/", "") },
				func() { f.dav(204, node, "DELETE", top, "") },
				func() { f.rest(200, node, "DELETE", top+"/", "") },
			} {
				text := fmt.Sprint("text ", i)
				f.rest(200, node, "POST", top+"/?create=true", "")
				f.rest(200, node, "POST", top+"/config", text)
				f.rest(200, node, "POST", top+"/data/"+name(text), text)
				remove()
				f.rest(404, node, "HEAD", top+"/config", "")
				if held("config") != "text 0" || held("data/"+name(text)[:2]+"/"+name(text)) != text {
					t.Errorf("removal %d left config %q and data %q in the holding area", i, held("config"), held("data/"+name(text)[:2]+"/"+name(text)))
				}
			}
			f.dav(201, node, "PUT", "/archive/dokuwiki/note.txt", "note")
			f.dav(204, node, "DELETE", "/archive/dokuwiki/note.txt", "")
			f.dav(404, node, "DELETE", "/archive/dokuwiki/note.txt", "")
			if got := held("../note.txt"); got != "note" {
				t.Errorf("the file that WebDAV deleted is %q in the holding area", got)
			}
			for _, content := range []string{"a", "b"} { // the first one stays, and nothing that is there is replaced
				f.dav(201, node, "PUT", "/archive/dokuwiki/twice", content)
				f.dav(403, node, "PUT", "/archive/dokuwiki/twice", "junk")
				f.dav(201, node, "PUT", "/archive/dokuwiki/junk", "junk")
				f.dav(403, node, "MOVE", "/archive/dokuwiki/junk", "", "Destination", "/archive/dokuwiki/twice")
				f.dav(403, node, "COPY", "/archive/dokuwiki/junk", "", "Destination", "/archive/dokuwiki/twice")
				f.dav(204, node, "DELETE", "/archive/dokuwiki/junk", "")
				f.dav(204, node, "DELETE", "/archive/dokuwiki/twice", "")
			}
			if got := held("../twice"); got != "a" {
				t.Errorf("what was deleted first is %q in the holding area", got)
			}
			f.dav(201, node, "PUT", "/archive/"+own+".json", "{}")
			f.dav(201, node, "PUT", "/archive/"+own+".json", "{1}")
			area := "/archive/" + config.HoldingArea
			f.dav(403, node, "DELETE", area, "")
			f.dav(403, node, "PUT", area+"/"+day+"/"+own+"/config", "x")
			f.dav(403, node, "MOVE", area+"/"+day, "", "Destination", "/archive/x")
			f.dav(403, node, "MOVE", "/archive/dokuwiki", "", "Destination", area+"/x")
			f.rest(403, node, "DELETE", area+"/"+day+"/"+own+"/", "")
			f.dav(200, node, "GET", area+"/"+day+"/"+own+"/config", "")
		})
	}
}

// A limit in bytes a second is kept, in both directions, and holds nobody else up.
func TestBandwidth(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, kind, "")
			f.reconfigure("type = \"dokuwiki\"", "type = \"dokuwiki\"\nupload-limit = \"256K\"\ndownload-limit = \"512K\"")
			limited, free := f.as("wiki1", token.Add, own), f.as("wiki2", token.Add, other)
			text := strings.Repeat("x", 256<<10)
			for login, repository := range map[string]string{limited: own, free: other} {
				f.rest(200, login, "POST", "/archive/"+repository+"/?create=true", "")
			}
			took := func(login, method, repository string) time.Duration {
				start := time.Now()
				body := text
				if method == http.MethodGet {
					body = ""
				}
				f.rest(200, login, method, "/archive/"+repository+"/data/"+name(text), body)
				return time.Since(start)
			}
			// A quarter of a second's worth is let through at once.
			slow := took(limited, "POST", own)
			if slow < 600*time.Millisecond {
				t.Errorf("256 KiB at 256 KiB/s took %s", slow)
			}
			if down := took(limited, "GET", own); down < 200*time.Millisecond {
				t.Errorf("256 KiB at 512 KiB/s took %s", down)
			}
			if up := took(free, "POST", other); up >= slow {
				t.Errorf("the other module's upload took %s", up)
			}
		})
	}
}
