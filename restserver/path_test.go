package restserver

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var someID = strings.Repeat("0123456789abcdef", 4)

func TestParsePath(t *testing.T) {
	for path, want := range map[string]struct {
		folders string
		object  Object
	}{
		"/":                            {"", Object{}},
		"/a/":                          {"a", Object{}},
		"/a/b/c/":                      {"a b c", Object{}},
		"/config":                      {"", Object{Type: "config"}},
		"/a/config":                    {"a", Object{Type: "config"}},
		"/data/":                       {"", Object{Type: "data"}},
		"/a/b/locks/":                  {"a b", Object{Type: "locks"}},
		"/a/keys/" + someID:            {"a", Object{"keys", someID}},
		"/.../ä /index/":               {"... ä ", Object{Type: "index"}},
		"/metrics/snapshots/" + someID: {"metrics", Object{"snapshots", someID}},
	} {
		folders, object, ok := ParsePath(path)
		if !ok || strings.Join(folders, " ") != want.folders || object != want.object {
			t.Errorf("ParsePath(%q) = %q, %v, %v; want %q, %v", path, folders, object, ok, want.folders, want.object)
		}
	}
	for _, path := range []string{
		"", "a", "config", "//", "/a", "/a/b", "/a//", "//config", "/./", "/../", "/a/../config", "/a/./data/", "/a\x00/", "/config/",
		"/config/config", "/data", "/data//", "/a/keys", "/data/a", "/data/" + someID + "/", "/data/" + someID[1:], "/data/" + someID + "0",
		"/data/" + strings.ToUpper(someID), "/data/config", "/data/data/", "/index/a/config", "/locks/.." + someID,
		"/" + strings.Repeat("a/", maxPathBytes),
	} {
		if folders, object, ok := ParsePath(path); ok {
			t.Errorf("ParsePath(%q) = %q, %v; want none", path, folders, object)
		}
	}
}

// FuzzPath has paths that no folder above the repositories is reached by, whatever the parser or the server makes of them.
func FuzzPath(f *testing.F) {
	for _, path := range []string{
		"/", "/a/b/config", "/a/data/", "/data/" + someID, "/a/../locks/", "//", "/a\x00/", "/../config", "/../outside/config", "/a/../../outside/config",
		"/outside/config", "/./config", "/a/..", "/\xff/keys/", "/..\\config", "/a/b/../../../outside/keys/" + someID,
	} {
		f.Add(path)
	}
	above := f.TempDir()
	for _, name := range []string{"config", "outside/config", "outside/keys/" + someID} {
		name = filepath.Join(above, name)
		_ = os.MkdirAll(filepath.Dir(name), 0o700)
		if err := os.WriteFile(name, []byte("secret"), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	server, err := NewHandler(&Server{Path: filepath.Join(above, "root"), NoAuth: true})
	if err != nil {
		f.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(above, "outside"), filepath.Join(above, "root", "outside")); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path string) {
		for _, method := range []string{"GET", "DELETE"} {
			w := httptest.NewRecorder()
			server.ServeHTTP(w, &http.Request{Method: method, URL: &url.URL{Path: path}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1})
			if text := w.Body.String(); strings.Contains(text, "secret") || strings.Contains(text, someID) {
				t.Errorf("%s %q: %q", method, path, text)
			}
		}
		if got := files(t, above); len(got) != 4 {
			t.Fatalf("after %q, there are %q", path, got)
		}
		folders, o, ok := ParsePath(path)
		if !ok {
			return
		}
		again := "/"
		for _, name := range folders {
			if strings.ContainsAny(name, "/\x00") || slices.Contains([]string{"", ".", "..", configType}, name) || isFolderType(name) {
				t.Errorf("ParsePath(%q) has the folder %q", path, name)
			}
			again += name + "/"
		}
		again += o.Type
		if isFolderType(o.Type) {
			again += "/" + o.Name
		}
		if again != path || !o.valid() {
			t.Errorf("ParsePath(%q) = %q, %v, which is %q", path, folders, o, again)
		}
		if o.Name != "" || o.Type == configType {
			if file := filepath.Join(append(folders, o.Path())...); !filepath.IsLocal(file) || strings.Count(file, "/") < len(folders) {
				t.Errorf("ParsePath(%q) is the file %s", path, file)
			}
		}
	})
}
