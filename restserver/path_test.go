package restserver

import (
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

func FuzzParsePath(f *testing.F) {
	for _, path := range []string{"/", "/a/b/config", "/a/data/", "/data/" + someID, "/a/../locks/", "//", "/a\x00/"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
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
	})
}
