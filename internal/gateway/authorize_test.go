package gateway

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"sdbackup/internal/config"
	"sdbackup/internal/token"
	"sdbackup/restserver"
)

const (
	own   = "dokuwiki/3792c7db-9450-4bd3-84a3-034cd0087839"
	other = "dokuwiki/4792c7db-9450-4bd3-84a3-034cd0087839"
	blob  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

var (
	allTypes   = []string{"data", "index", "keys", "locks", "snapshots"}
	allMethods = []string{"GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "PROPFIND", "MKCOL", "MOVE", "COPY", "LOCK", "TRACE", ""}
)

func grantee(grants ...token.Grant) token.Principal {
	return token.Principal{Name: "wiki1", Grants: grants}
}

// TestAuthorizeREST goes through every principal, method, repository and kind of object, and holds the answers against a list of what is
// allowed: what is not on it is refused.
func TestAuthorizeREST(t *testing.T) {
	principals := map[string]token.Principal{
		"node":    {Name: "web1", Node: true},
		"nobody":  {Name: "wiki1"},
		"module":  grantee(token.Grant{Destination: "archive", Repository: own, Mode: token.Add}),
		"prune":   grantee(token.Grant{Destination: "archive", Repository: own, Mode: token.All}),
		"restore": grantee(token.Grant{Destination: "archive", Repository: own, Mode: token.Read}),
		"strange": grantee(token.Grant{Destination: "archive", Repository: own, Mode: "everything"}),
		"empty":   grantee(token.Grant{}),
	}
	read := func(r Request) bool { return r.Method == "GET" || r.Method == "HEAD" }
	lock := func(r Request) bool {
		return r.Object.Type == "locks" && r.Object.Name != "" && (r.Method == "POST" || r.Method == "DELETE")
	}
	allowed := map[string]func(r Request) bool{
		"node":    func(Request) bool { return true },
		"nobody":  func(Request) bool { return false },
		"empty":   func(Request) bool { return false },
		"restore": func(r Request) bool { return read(r) || lock(r) },
		"module": func(r Request) bool {
			return read(r) || lock(r) || r.Method == "POST" && !(r.Object.Type == "keys" && r.Initialised)
		},
		"strange": func(r Request) bool { return read(r) || lock(r) || r.Method == "POST" },
		"prune": func(r Request) bool {
			return read(r) || r.Method == "POST" || r.Method == "DELETE" && r.Object.Type != ""
		},
	}
	objects := []restserver.Object{{}, {Type: "config"}}
	for _, kind := range allTypes {
		objects = append(objects, restserver.Object{Type: kind}, restserver.Object{Type: kind, Name: blob})
	}
	places := map[[2]string]bool{ // the principal's own?
		{"archive", own}: true, {"archive", own + "/sub"}: true, {"archive", other}: false, {"bucket", own}: false, {"archive", own + "x"}: false,
		{"archive", "dokuwiki"}: false, {"archive", ""}: false, {"archive", config.HoldingArea + "/2026-11-20/" + own}: false, {"", own}: false, {"", ""}: false, {"archive", strings.ToUpper(own)}: false,
	}
	n := 0
	for name, p := range principals {
		for _, method := range allMethods {
			for place, mine := range places {
				for _, o := range objects {
					for _, initialised := range []bool{false, true} {
						r := Request{Protocol: REST, Method: method, Destination: place[0], Repository: place[1], Object: o, Initialised: initialised}
						want := allowed[name](r) && (mine || p.Node)
						if strings.HasPrefix(r.Repository, config.HoldingArea) {
							want = want && (read(r) || method == "OPTIONS" || method == "PROPFIND")
						}
						if got := Authorize(p, r) == nil; got != want {
							t.Errorf("%s: %s %v of %v, initialised %v: allowed = %v; want %v", name, method, o, place, initialised, got, want)
						}
						n++
					}
				}
			}
		}
	}
	if n < 10000 {
		t.Errorf("only %d cases", n)
	}
}

func TestAuthorizeWebDAV(t *testing.T) {
	module := grantee(token.Grant{Destination: "archive", Repository: own, Mode: token.Add})
	prune := grantee(token.Grant{Destination: "archive", Repository: own, Mode: token.All})
	reads := map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "PROPFIND": true}
	files := map[[2]string]bool{
		{"", ""}: true, {"archive", own}: true, {"archive", own + "/config"}: true, {"archive", own + "/data/01"}: true, {"archive", own + ".json"}: true,
		{"archive", ""}: false, {"archive", "dokuwiki"}: false, {"archive", other}: false, {"archive", other + ".json"}: false,
		{"archive", "node-backup-0b55ea4c-0f6a-4c4e-9f0a-6d8f3f1c2a11.tar.gz.gpg"}: false,
		{"archive", own + ".json/x"}: false, {"archive", own + "x"}: false, {"bucket", own}: false, {"archive", config.HoldingArea}: false,
		{"archive", config.HoldingArea + "/2026-11-20/" + own}: false,
	}
	for _, method := range allMethods {
		for file, mine := range files {
			r := Request{Protocol: WebDAV, Method: method, Destination: file[0], File: file[1], To: file[1]}
			want := mine && reads[method]
			for name, p := range map[string]token.Principal{"module": module, "prune": prune} {
				if got := Authorize(p, r) == nil; got != want {
					t.Errorf("%s: %s %v: allowed = %v; want %v", name, method, file, got, want)
				}
			}
			want = reads[method] || !strings.HasPrefix(r.File, config.HoldingArea)
			if got := Authorize(token.Principal{Name: "web1", Node: true}, r) == nil; got != want {
				t.Errorf("node: %s %v: allowed = %v; want %v", method, file, got, want)
			}
		}
	}
}

func request(t *testing.T, method, target string, header ...string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(method, "/", nil)
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	r.URL, r.RequestURI = u, target
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

const v2 = "application/vnd.x.restic.rest.v2"

func TestParseRequest(t *testing.T) {
	rest := []string{"Accept", v2}
	for _, c := range []struct {
		method, target string
		header         []string
		want           Request
		ok             bool
	}{
		{"GET", "/archive/" + own + "/config", rest, Request{Protocol: REST, Destination: "archive", Repository: own, Object: restserver.Object{Type: "config"}}, true},
		{"GET", "/archive/" + own + "/data/", rest, Request{Protocol: REST, Destination: "archive", Repository: own, Object: restserver.Object{Type: "data"}}, true},
		{"GET", "/archive/" + own + "/data/" + blob, rest, Request{Protocol: REST, Destination: "archive", Repository: own, Object: restserver.Object{Type: "data", Name: blob}}, true},
		{"GET", "/archive/" + own + "/data/" + blob, []string{"Accept", "application/vnd.x.restic.rest.v1"}, Request{Protocol: REST, Destination: "archive", Repository: own, Object: restserver.Object{Type: "data", Name: blob}}, true},
		{"POST", "/archive/" + own + "/?create=true", nil, Request{Protocol: REST, Destination: "archive", Repository: own}, true},
		{"PROPFIND", "/", nil, Request{Protocol: WebDAV}, true},
		{"GET", "/archive", nil, Request{Protocol: WebDAV, Destination: "archive"}, true},
		{"GET", "/archive/" + own + ".json", nil, Request{Protocol: WebDAV, Destination: "archive", File: own + ".json"}, true},
		{"GET", "/archive/a%20b/", nil, Request{Protocol: WebDAV, Destination: "archive", File: "a b"}, true},
		{"MOVE", "/archive/a", []string{"Destination", "https://else.where/archive/b%20c"}, Request{Protocol: WebDAV, Destination: "archive", File: "a", To: "b c"}, true},
		{"COPY", "/archive/a", []string{"Destination", "/archive/b"}, Request{Protocol: WebDAV, Destination: "archive", File: "a", To: "b"}, true},

		{"GET", "/archive/" + own + "/data", rest, Request{}, false},
		{"GET", "/archive/config", rest, Request{}, false},
		{"GET", "/config", rest, Request{}, false},
		{"GET", "/archive/../" + own + "/config", rest, Request{}, false},
		{"GET", "/archive/%2e%2e/" + own + "/config", rest, Request{}, false},
		{"GET", "/archive//" + own + "/config", rest, Request{}, false},
		{"GET", "/archive/" + own + "%2fconfig", rest, Request{}, false},
		{"GET", "/archive/" + own + "%2Fconfig", nil, Request{}, false},
		{"GET", "/archive/a%5c..%5cb", nil, Request{}, false},
		{"GET", "/archive/a%00", nil, Request{}, false},
		{"GET", "/archive/%ff", nil, Request{}, false},
		{"GET", "/archive/./a", nil, Request{}, false},
		{"GET", "/archive/a/..", nil, Request{}, false},
		{"GET", "//archive/a", nil, Request{}, false},
		{"GET", "//", nil, Request{}, false},
		{"GET", "/archive/data/keys/" + blob, rest, Request{}, false},
		{"GET", "/archive/dokuwiki/keys/data/" + blob, rest, Request{}, false},
		{"DELETE", "/archive/" + own + "/locks/../data/" + blob, rest, Request{}, false},
		{"DELETE", "/archive/" + own + "/locks/" + strings.ToUpper(blob), rest, Request{}, false},
		{"MOVE", "/archive/a", nil, Request{}, false},
		{"MOVE", "/archive/a", []string{"Destination", "/bucket/a"}, Request{}, false},
		{"MOVE", "/archive/a", []string{"Destination", "/archive"}, Request{}, false},
		{"MOVE", "/archive/a", []string{"Destination", "/archive/../b"}, Request{}, false},
		{"MOVE", "/archive/a", []string{"Destination", "/archive/%2e%2e/b"}, Request{}, false},
		{"COPY", "/archive/a", []string{"Destination", "/archive/b", "Destination", "/archive/c"}, Request{}, false},
		{"COPY", "/archive/a", []string{"Destination", "http://%zz/"}, Request{}, false},
	} {
		c.want.Method = c.method
		got, err := ParseRequest(request(t, c.method, c.target, c.header...))
		if (err == nil) != c.ok || c.ok && got != c.want {
			t.Errorf("ParseRequest(%s %s %q) = %+v, %v; want %+v", c.method, c.target, c.header, got, err, c.want)
		}
	}
}

// However a path is written, what is allowed lies in the module's own repository.
func FuzzParseRequest(f *testing.F) {
	for _, target := range []string{"/archive/" + own + "/locks/" + blob, "/archive/" + own + "/../x/config", "/archive/%2e%2e/%2F/config", "/", "/archive/" + own + ".json"} {
		f.Add("DELETE", target, "/archive/"+own, true)
		f.Add("GET", target, "http://x/archive/../y", false)
	}
	module := grantee(token.Grant{Destination: "archive", Repository: own, Mode: token.Add})
	f.Fuzz(func(t *testing.T, method, target, destination string, rest bool) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		r := &http.Request{Method: method, URL: u, Header: http.Header{"Destination": {destination}}}
		if rest {
			r.Header.Set("Accept", v2)
		}
		req, err := ParseRequest(r)
		if err != nil || Authorize(module, req) != nil {
			return
		}
		for _, part := range strings.Split(u.Path, "/") {
			if part == ".." || part == "." {
				t.Errorf("%s is allowed", target)
			}
		}
		if top := "/archive/" + own; u.Path != "/" && u.Path != top && u.Path != top+".json" && !strings.HasPrefix(u.Path, top+"/") && u.Path != top+".json/" {
			t.Errorf("%s %s is allowed", method, target)
		}
		if req.Protocol == REST && method == "DELETE" && (req.Object.Type != "locks" || !strings.Contains(u.Path, "/locks/")) {
			t.Errorf("DELETE %s is allowed", target)
		}
	})
}
