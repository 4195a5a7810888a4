package gateway

import (
	"encoding/xml"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sdbackup/internal/token"
)

// hrefs are what PROPFIND found.
func hrefs(t *testing.T, text string) []string {
	t.Helper()
	var found struct {
		Responses []struct {
			Href string `xml:"href"`
		} `xml:"response"`
	}
	if err := xml.Unmarshal([]byte(text), &found); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	var list []string
	for _, r := range found.Responses {
		list = append(list, r.Href)
	}
	slices.Sort(list)
	return list
}

func (f *fixture) dav(want int, login, method, path, body string, header ...string) string {
	f.Helper()
	code, text := f.ask(login, method, path, body, header...)
	if code != want {
		f.Errorf("%s %s: %d %s; want %d", method, path, code, strings.TrimSpace(text), want)
	}
	return text
}

func TestWebDAV(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, kind, "")
			node, module, elsewhere := f.as("web1", ""), f.as("wiki1", token.Add, own), f.as("wiki2", token.Add, other)
			if got := hrefs(t, f.dav(207, module, "PROPFIND", "/", "")); !slices.Equal(got, []string{"/", "/archive/"}) {
				t.Errorf("/ = %v", got)
			}
			if got := hrefs(t, f.dav(207, f.as("wiki3", token.Add), "PROPFIND", "/", "")); !slices.Equal(got, []string{"/"}) {
				t.Errorf("/ of one who has nothing = %v", got)
			}
			if got := f.dav(200, node, "GET", "/", ""); got != "archive/\n" {
				t.Errorf("GET / = %q", got)
			}
			f.dav(405, node, "PUT", "/", "x")
			f.rest(200, module, "POST", "/archive/"+own+"/?create=true", "")
			f.rest(200, module, "POST", "/archive/"+own+"/config", "config")

			// What is written beside a repository.
			f.dav(201, node, "PUT", "/archive/"+own+".json", `{"module":"wiki1"}`)
			f.dav(403, elsewhere, "GET", "/archive/"+own+".json", "")
			f.dav(403, module, "PUT", "/archive/"+own+".json", "{}")
			if got := f.dav(200, module, "GET", "/archive/"+own+".json", ""); got != `{"module":"wiki1"}` {
				t.Errorf("metadata = %q", got)
			}
			f.dav(207, module, "PROPFIND", "/archive/"+own+"/", "", "Depth", "1")
			f.dav(403, module, "PROPFIND", "/archive/", "", "Depth", "1")
			f.dav(403, module, "PROPFIND", "/archive/dokuwiki/", "", "Depth", "infinity")
			if got := f.dav(200, module, "GET", "/archive/"+own+"/config", ""); got != "config" {
				t.Errorf("config = %q", got)
			}

			// A node's copy is the node's alone.
			const nodeCopy = "/archive/node-backup-0b55ea4c-0f6a-4c4e-9f0a-6d8f3f1c2a11.tar.gz.gpg"
			f.dav(201, node, "PUT", nodeCopy, "sealed")
			for _, login := range []string{module, f.as("wiki1", token.All, own), f.as("wiki1", token.Read, own), f.as("wiki3", token.Add)} {
				for _, method := range []string{"GET", "HEAD", "PROPFIND", "PUT", "DELETE", "COPY", "MOVE"} {
					f.dav(403, login, method, nodeCopy, "", "Destination", "/archive/"+own+"/x")
				}
				f.rest(404, login, "GET", nodeCopy, "")
				f.rest(403, login, "GET", nodeCopy+"/config", "")
			}
			if got := f.dav(200, node, "GET", nodeCopy, ""); got != "sealed" {
				t.Errorf("the node's copy = %q", got)
			}

			// Folders, moving and copying; and where they lead.
			f.dav(201, node, "MKCOL", "/archive/a%20folder/", "")
			f.dav(201, node, "PUT", "/archive/a%20folder/f", "one")
			f.dav(201, node, "MOVE", "/archive/a%20folder/f", "", "Destination", "https://elsewhere.example/archive/a%20folder/g")
			f.dav(201, node, "COPY", "/archive/a%20folder/g", "", "Destination", f.http.URL+"/archive/a%20folder/h")
			for _, to := range []string{"/bucket/x", "/archive/../x", "/archive/%2e%2e/x", "/", "/archive", "", "http://[::1/x"} {
				f.dav(400, node, "MOVE", "/archive/a%20folder/g", "", "Destination", to)
			}
			if got := f.dav(200, node, "GET", "/archive/a%20folder/h", ""); got != "one" {
				t.Errorf("h = %q", got)
			}
			if got := hrefs(t, f.dav(207, node, "PROPFIND", "/archive/a%20folder/", "")); !slices.Equal(got, []string{"/archive/a%20folder/", "/archive/a%20folder/g", "/archive/a%20folder/h"}) {
				t.Errorf("a folder = %v", got)
			}
			f.dav(204, node, "DELETE", "/archive/a%20folder/", "")
			f.dav(404, node, "GET", "/archive/a%20folder/h", "")
			if _, err := os.Stat(filepath.Join(f.dir, "repo", own, "config")); err != nil {
				t.Error(err)
			}
			for _, path := range []string{"/archive/../x", "/archive/%2e%2e/x", "/archive//x", "/archive/a%2fb", "/archive/a%00"} {
				f.dav(404, node, "GET", path, "")
			}
		})
	}
}

// An upload that is cut off replaces nothing, and leaves nothing.
func TestWebDAVCut(t *testing.T) {
	f := newFixture(t, "local", "")
	node := f.as("web1", "")
	f.dav(201, node, "PUT", "/archive/file", "whole")
	req, err := http.NewRequest("PUT", f.http.URL+"/archive/file", strings.NewReader("half"))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 8
	user, secret, _ := strings.Cut(node, ":")
	req.SetBasicAuth(user, secret)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("half an upload was answered %d", resp.StatusCode)
	}
	f.server.Close() // waits for it
	entries, err := os.ReadDir(filepath.Join(f.dir, "repo"))
	if err != nil || len(entries) != 1 {
		t.Errorf("files = %v, %v; want one", entries, err)
	}
	if data, err := os.ReadFile(filepath.Join(f.dir, "repo/file")); err != nil || string(data) != "whole" {
		t.Errorf("file = %q, %v", data, err)
	}
}

// A symbolic link in a destination leads nowhere outside of it.
func TestWebDAVLinks(t *testing.T) {
	f := newFixture(t, "local", "")
	node := f.as("web1", "")
	if err := os.Symlink(f.dir, filepath.Join(f.dir, "repo/out")); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "DELETE", "PROPFIND"} {
		if code, text := f.ask(node, method, "/archive/out/password", ""); code < 400 {
			t.Errorf("%s: %d %s", method, code, text)
		}
	}
	if code, _ := f.ask(node, "PUT", "/archive/out/new", "x"); code < 400 {
		t.Errorf("PUT: %d", code)
	}
	if code, text := f.ask(node, "GET", "/archive/out/password/config", "", "Accept", v2); code < 400 {
		t.Errorf("by restic's protocol: %d %s", code, text)
	}
	if _, err := os.Stat(f.dir + "/password"); err != nil {
		t.Error(err)
	}
}

// cadaver is a client that somebody else wrote.
func TestCadaver(t *testing.T) {
	if _, err := exec.LookPath("cadaver"); err != nil {
		t.Fatalf("this test needs cadaver: %v", err)
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, kind, "")
			user, secret, _ := strings.Cut(f.as("web1", ""), ":")
			f.write(".netrc", "machine 127.0.0.1 login "+user+" password "+secret+"\n")
			f.write("upload", "by cadaver\n")
			cmd := exec.Command("cadaver", f.http.URL+"/archive/")
			cmd.Dir = f.dir
			cmd.Env = append(os.Environ(), "HOME="+f.dir)
			cmd.Stdin = strings.NewReader("mkcol folder\ncd folder\nput upload there\nls\nmove there here\nget here download\ndelete here\ncd ..\nrmcol folder\nquit\n")
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Count(string(out), "succeeded") < 6 || strings.Contains(string(out), "failed") {
				t.Fatalf("cadaver: %v\n%s", err, out)
			}
			if got := string(read(t, f.dir+"/download")); got != "by cadaver\n" {
				t.Errorf("download = %q", got)
			}
			if entries, err := os.ReadDir(f.dir + "/repo"); err != nil || len(entries) > 0 {
				t.Errorf("left = %v, %v", entries, err)
			}
		})
	}
}
