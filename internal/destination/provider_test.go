package destination

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
)

var update = flag.Bool("update", false, "write the files of testdata anew")

// marker is in every secret of a test, so that any trace of one is found.
const marker = "S3cr3tMarker"

// testStore is a store with two layers, a clock that stands and credentials of its own.
func testStore(t testing.TB) *Store {
	t.Helper()
	root := t.TempDir()
	s, err := Open(config.Paths{Config: []string{filepath.Join(root, "usr"), filepath.Join(root, "etc")}}, func() time.Time {
		return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	}, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	s.credentials = filepath.Join(root, "credentials")
	return s
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// tree returns the files below a folder with their modes and contents.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		files[name] = fmt.Sprintf("%04o %s", info.Mode().Perm(), data)
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

func mustAdd(t testing.TB, s *Store, r Request) Result {
	t.Helper()
	result, err := s.Add(t.Context(), r)
	if err != nil {
		t.Fatalf("Add(%s): %v", r.ID, err)
	}
	return result
}

func ptr[T any](v T) *T { return &v }

// requests are one of each provider, and of each way to use it.
func requests(t testing.TB) map[string]Request {
	dir := t.TempDir()
	hosts, key := filepath.Join(dir, "known_hosts"), filepath.Join(dir, "key")
	write(t, hosts, "nas ssh-ed25519 AAAA\n")
	write(t, key, "key\n")
	const secret = Secret(marker)
	all := map[string]Request{
		"local": {Provider: "local", Parameters: map[string]string{"path": "/srv//backup/"}},
		"local-gateway": {
			Provider: "local", Parameters: map[string]string{"path": "/srv/backup"}, Name: ptr(`Disk "A" \ ü`), Gateway: ptr(true),
			MaxSize: ptr("51200M"), KeepDeleted: ptr("4w"),
		},
		"s3-aws": {
			Provider: "s3", Secret: secret,
			Parameters: map[string]string{"region": "eu-central-1", "bucket": "b", "path": "/a/b/", "access-key-id": "AKIA"},
		},
		"s3-other": {
			Provider: "s3", Secret: secret,
			Parameters: map[string]string{"endpoint": "http://s3.example.org:9000", "bucket": "b", "access-key-id": "AKIA"},
		},
		"s3-minio": {
			Provider: "s3", Secret: secret,
			Parameters: map[string]string{"endpoint": "s3.example.org", "bucket": "b", "access-key-id": "AKIA", "s3-provider": "Minio"},
		},
		"b2":    {Provider: "b2", Secret: secret, Parameters: map[string]string{"bucket": "b", "path": "web1", "account": "0012"}},
		"azure": {Provider: "azure", Secret: secret, Parameters: map[string]string{"container": "c", "account": "acc"}},
		"smb": {
			Provider: "smb", Secret: secret,
			Parameters: map[string]string{"host": "nas", "port": "1445", "username": "u", "domain": "D", "share": "Back up", "path": "x y"},
		},
		"smb-guest": {Provider: "smb", Parameters: map[string]string{"host": "nas", "username": "guest", "share": "pub"}},
		"sftp-password": {
			Provider: "sftp", Secret: secret,
			Parameters: map[string]string{"host": "nas", "username": "u", "known-hosts": hosts, "path": "/srv/backup"},
		},
		"sftp-key": {Provider: "sftp", Parameters: map[string]string{"host": "nas", "port": "22", "username": "u", "known-hosts": hosts, "key-file": key, "path": "backup"}},
		"sftp-key-passphrase": {
			Provider: "sftp", Secret: secret,
			Parameters: map[string]string{"host": "nas", "username": "u", "known-hosts": hosts, "key-file": key},
		},
		"webdav":     {Provider: "webdav", Secret: secret, Parameters: map[string]string{"url": "https://cloud.example.org/dav/u@example.org/", "username": "u", "path": "/backup"}},
		"rest":       {Provider: "rest", Secret: secret, Parameters: map[string]string{"url": "https://node2:4694/archive", "username": "web1"}},
		"rest-plain": {Provider: "rest", Parameters: map[string]string{"url": "http://node2:8000/"}},
		"rclone":     {Provider: "rclone", Parameters: map[string]string{"path": "a"}, RcloneConfig: "# mine\n[old name]\ntype = drive\nscope: drive\ntoken = {\"access_token\":\"" + marker + "\"}\n"},
	}
	for id, r := range all {
		r.ID, r.Password = id, "pw-"+marker
		all[id] = r
	}
	return all
}

// TestProviders compares what is written for each provider with testdata/providers.
func TestProviders(t *testing.T) {
	for id, r := range requests(t) {
		t.Run(id, func(t *testing.T) {
			s := testStore(t)
			result := mustAdd(t, s, r)
			var b strings.Builder
			for _, path := range result.Files {
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&b, "==> %s %04o <==\n", strings.TrimPrefix(path, s.Dir+"/"), info.Mode().Perm())
				for line := range strings.Lines(read(t, path)) {
					if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " = "); ok {
						if plain, err := reveal(value); err == nil && strings.Contains(key, "pass") {
							line = key + " = (obscured) " + string(plain) + "\n"
						}
					}
					b.WriteString(line)
				}
			}
			got := strings.ReplaceAll(b.String(), s.Dir, "/etc/sdbackup")
			for _, name := range []string{"known-hosts", "key-file"} {
				if path := r.Parameters[name]; path != "" {
					got = strings.ReplaceAll(got, path, "/"+name)
				}
			}
			golden := filepath.Join("testdata/providers", id+".txt")
			if *update {
				write(t, golden, got)
			}
			if want := read(t, golden); got != want {
				t.Errorf("%s is written as\n%s\nwant\n%s", id, got, want)
			}
			cfg := s.load()
			if problems := cfg.Errors(); len(problems) > 0 {
				t.Errorf("the configuration has problems: %v", problems)
			}
			if cfg.Destinations[id].UUID != result.UUID {
				t.Errorf("UUID %s in the file, %s in the result", cfg.Destinations[id].UUID, result.UUID)
			}
		})
	}
}

// TestRoundTrip: what was written is read back as what was asked for, and nothing changes it to write it again.
func TestRoundTrip(t *testing.T) {
	for id, r := range requests(t) {
		t.Run(id, func(t *testing.T) {
			s := testStore(t)
			mustAdd(t, s, r)
			before := tree(t, s.Dir)
			if _, err := s.Alter(t.Context(), Request{ID: id}); err != nil {
				t.Fatal(err)
			}
			after := tree(t, s.Dir)
			for name, text := range before {
				if after[name] != text {
					t.Errorf("an empty alter made of %s\n%s\nit was\n%s", name, after[name], text)
				}
			}
			if len(after) != len(before) {
				t.Errorf("an empty alter left %d files; want %d", len(after), len(before))
			}
			st, err := s.read(t.Context(), s.load().Destinations[id])
			if err != nil {
				t.Fatal(err)
			}
			parameters, secret := st.parameters()
			if secret != r.Secret || st.password != r.Password {
				t.Error("the secrets that are read are not those that were written")
			}
			for name, want := range r.Parameters {
				if got := parameters[name]; strings.Trim(strings.ReplaceAll(got, "//", "/"), "/") != strings.Trim(strings.ReplaceAll(want, "//", "/"), "/") {
					t.Errorf("parameter %s = %q; want %q", name, got, want)
				}
			}
		})
	}
}

// TestRcloneReadsIt asks the real rclone what it sees in the files.
func TestRcloneReadsIt(t *testing.T) {
	needRclone(t)
	for id, r := range requests(t) {
		s := testStore(t)
		mustAdd(t, s, r)
		remote, err := s.readRemote(t.Context(), s.load().Destinations[id])
		if err != nil {
			t.Fatal(err)
		}
		if remote != nil {
			sameAsRclone(t, s.rclonePath(id), []Section{*remote})
		}
	}
}

func needRclone(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("rclone"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("rclone is not installed")
		}
		t.Skip("rclone is not installed")
	}
}

func TestWrongParameters(t *testing.T) {
	file := filepath.Join(t.TempDir(), "empty")
	write(t, file, "")
	for name, c := range map[string]struct {
		request Request
		want    []string // flags, in the order of the messages
		text    string   // in them
	}{
		"no provider":          {Request{}, []string{"provider"}, "want one of local, s3"},
		"unknown provider":     {Request{Provider: "ftp"}, []string{"provider"}, `there is no "ftp"`},
		"other cannot be made": {Request{Provider: "other"}, []string{"provider"}, `there is no "other"`},
		"all at once": {
			Request{Provider: "s3", Parameters: map[string]string{"host": "x"}},
			[]string{"host", "bucket", "access-key-id", "secret-file"},
			"is not for provider s3; it has --bucket",
		},
		"s3 of nobody":          {Request{Provider: "s3", Secret: "x", Parameters: map[string]string{"bucket": "b", "access-key-id": "a"}}, []string{"endpoint"}, "--region for AWS"},
		"relative path":         {Request{Provider: "local", Parameters: map[string]string{"path": "srv"}}, []string{"path"}, "no absolute path"},
		"root":                  {Request{Provider: "local", Parameters: map[string]string{"path": "//"}}, []string{"path"}, "root of the file system"},
		"upwards":               {Request{Provider: "local", Parameters: map[string]string{"path": "/srv/../x"}}, []string{"path"}, "leads upwards"},
		"line break":            {Request{Provider: "local", Parameters: map[string]string{"path": "/srv\n[x]"}}, []string{"path"}, "line break"},
		"not UTF-8":             {Request{Provider: "local", Parameters: map[string]string{"path": "/srv/\xff"}}, []string{"path"}, "not UTF-8"},
		"replaced by kong":      {Request{Provider: "local", Parameters: map[string]string{"path": "/srv/\ufffd"}}, []string{"path"}, "not UTF-8"},
		"kept elsewhere":        {Request{Provider: "rest", Parameters: map[string]string{"url": "http://h/"}, Gateway: ptr(true), KeepDeleted: ptr("14d")}, []string{"keep-deleted"}, "set it there"},
		"kept by nobody":        {Request{Provider: "local", Parameters: map[string]string{"path": "/srv"}, KeepDeleted: ptr("14d")}, []string{""}, "want gateway = true (--gateway)"},
		"secret of local":       {Request{Provider: "local", Secret: "x", Parameters: map[string]string{"path": "/srv"}}, []string{"secret-file"}, "no secret"},
		"bucket with a folder":  {Request{Provider: "b2", Secret: "x", Parameters: map[string]string{"bucket": "a/b", "account": "a"}}, []string{"bucket"}, "--path"},
		"sftp without a key":    {Request{Provider: "sftp", Secret: "x", Parameters: map[string]string{"host": "h", "username": "u"}}, []string{"known-hosts"}, "ssh-keyscan"},
		"sftp, empty hosts":     {Request{Provider: "sftp", Secret: "x", Parameters: map[string]string{"host": "h", "username": "u", "known-hosts": file}}, []string{"known-hosts"}, "is empty"},
		"sftp, no secret":       {Request{Provider: "sftp", Parameters: map[string]string{"host": "h", "username": "u", "known-hosts": "/etc/passwd"}}, []string{"key-file"}, "--secret-file"},
		"port":                  {Request{Provider: "smb", Parameters: map[string]string{"host": "h", "username": "u", "share": "s", "port": "70000"}}, []string{"port"}, "65535"},
		"host with a user":      {Request{Provider: "smb", Parameters: map[string]string{"host": "u@h", "username": "u", "share": "s"}}, []string{"host"}, "no host"},
		"password in an URL":    {Request{Provider: "rest", Parameters: map[string]string{"url": "https://u:" + marker + "@h/"}}, []string{"url"}, "--secret-file"},
		"odd password in URL":   {Request{Provider: "rest", Parameters: map[string]string{"url": "https://u:" + marker + " @h/"}}, []string{"url"}, "no address"},
		"password in endpoint":  {Request{Provider: "s3", Secret: "x", Parameters: map[string]string{"bucket": "b", "access-key-id": "a", "endpoint": "u:" + marker + "@h"}}, []string{"endpoint"}, "user"},
		"user without password": {Request{Provider: "rest", Parameters: map[string]string{"url": "https://h/", "username": "u"}}, []string{"secret-file"}, "password"},
		"password without user": {Request{Provider: "webdav", Secret: "x", Parameters: map[string]string{"url": "https://h/"}}, []string{"username"}, "user"},
		"interpolation":         {Request{Provider: "s3", Secret: "x", Parameters: map[string]string{"bucket": "b", "access-key-id": "%(type)s", "region": "r"}}, []string{"access-key-id"}, "rclone would replace"},
		"interpolated secret":   {Request{Provider: "s3", Secret: "%(type)s" + marker, Parameters: map[string]string{"bucket": "b", "access-key-id": "a", "region": "r"}}, []string{"rclone-config"}, "rclone would replace"},
		"no rclone.conf":        {Request{Provider: "rclone"}, []string{"rclone-config"}, "is missing"},
		"rclone.conf of s3":     {Request{Provider: "local", Parameters: map[string]string{"path": "/srv"}, RcloneConfig: "x"}, []string{"rclone-config"}, "not for provider local"},
		"remote alone":          {Request{Provider: "rclone", Remote: "x"}, []string{"remote"}, "is missing"},
		"size":                  {Request{Provider: "local", Parameters: map[string]string{"path": "/srv"}, Gateway: ptr(true), MaxSize: ptr("much")}, []string{"max-size"}, "50G"},
		"span":                  {Request{Provider: "local", Parameters: map[string]string{"path": "/srv"}, Gateway: ptr(true), KeepDeleted: ptr("infinity")}, []string{"keep-deleted"}, "30d"},
		"size, no gateway":      {Request{Provider: "local", Parameters: map[string]string{"path": "/srv"}, MaxSize: ptr("5G")}, []string{""}, "want gateway = true"},
		"name":                  {Request{Provider: "local", Parameters: map[string]string{"path": "/srv"}, Name: ptr("a\nb")}, []string{"name"}, "line break"},
		"password":              {Request{Provider: "local", Parameters: map[string]string{"path": "/srv"}, Password: "a\nb"}, []string{"password-file"}, "line break"},
		"password of blanks":    {Request{Provider: "local", Parameters: map[string]string{"path": "/srv"}, Password: "ab "}, []string{"password-file"}, "blank"},
		"env as a credential":   {Request{Provider: "rest", Secret: "x", Credential: ptr(true), Parameters: map[string]string{"url": "https://h/", "username": "u"}}, []string{"credential"}, "cannot be a credential"},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			c.request.ID = "a"
			_, err := s.Add(t.Context(), c.request)
			if err == nil {
				t.Fatal("it was added")
			}
			var flags []string
			for _, e := range all(err) {
				var u *UsageError
				if !errors.As(e, &u) {
					t.Errorf("%v is no *UsageError", e)
					continue
				}
				flags = append(flags, u.Flag)
			}
			if strings.Join(flags, " ") != strings.Join(c.want, " ") || !strings.Contains(err.Error(), c.text) {
				t.Errorf("Add = %v; want mistakes at %v, with %q", err, c.want, c.text)
			}
			if strings.Contains(err.Error(), marker) {
				t.Errorf("the error has the secret: %v", err)
			}
			if files := tree(t, s.Dir); len(files) > 0 {
				t.Errorf("a refused request left %v", files)
			}
		})
	}
}

// all flattens joined errors.
func all(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []error
		for _, e := range joined.Unwrap() {
			list = append(list, all(e)...)
		}
		return list
	}
	return []error{err}
}

func TestIDs(t *testing.T) {
	for _, id := range []string{"", "-a", "a/b", "a b", "ä", "..", strings.Repeat("x", 65), "data"} {
		s := testStore(t)
		// The gateway serves nothing under the name of a part of a repository, so "data" is refused as well.
		_, err := s.Add(t.Context(), Request{ID: id, Provider: "local", Parameters: map[string]string{"path": "/srv"}, Gateway: ptr(true)})
		if e := (*UsageError)(nil); !errors.As(err, &e) {
			t.Errorf("Add(%q) = %v; want a *UsageError", id, err)
		}
	}
	for _, id := range []string{"a", "a.b", "9", "A_1.x-2", "DEFAULT", "a.", strings.Repeat("x", 64)} {
		s := testStore(t)
		mustAdd(t, s, Request{ID: id, Provider: "b2", Secret: "k", Parameters: map[string]string{"bucket": "b", "account": "a"}})
		if problems := s.load().Errors(); len(problems) > 0 {
			t.Errorf("destination %q: %v", id, problems)
		}
	}
}

func TestRecogniseS3(t *testing.T) {
	for endpoint, want := range map[string]string{
		"": "AWS", "s3.eu-central-1.amazonaws.com": "AWS", "https://S3.amazonaws.com/": "AWS", "s3.cn-north-1.amazonaws.com.cn": "AWS",
		"s3.eu-central-1.wasabisys.com": "Wasabi", "fra1.digitaloceanspaces.com": "DigitalOcean", "https://x.r2.cloudflarestorage.com": "Cloudflare",
		"s3.us-west-002.backblazeb2.com": "Other", "minio.example.org:9000": "Other", "amazonaws.com.example.org": "Other", "notamazonaws.com": "Other",
	} {
		if got := recogniseS3(endpoint); got != want {
			t.Errorf("recogniseS3(%q) = %q; want %q", endpoint, got, want)
		}
	}
}

func TestUUID(t *testing.T) {
	// python3 -c 'import uuid; print(uuid.uuid5(uuid.NAMESPACE_URL, ...))'
	for want, i := range map[string]identity{
		"06e30cbd-90b6-5f10-9e33-78b754d66544": {Provider: "local", URL: "/srv/backup", Parameters: map[string]string{"path": "/srv/backup"}},
		"a6bd6648-c6d5-5570-bca3-84aa4201a181": {Provider: "s3", URL: "b/a&b", Parameters: map[string]string{"path": "a&b", "bucket": "b", "access-key-id": "<ü>"}},
		"2a56e9b5-74dd-51ae-a202-15bcb57b25b5": {Provider: "other", URL: "sftp:h:/x"},
	} {
		if got := i.uuid(); got != want {
			t.Errorf("UUID of %v = %s; want %s", i, got, want)
		}
	}
}

// TestUUIDIgnores: a UUID says which place it is, and nothing else.
func TestUUIDIgnores(t *testing.T) {
	of := func(id string, change func(*Request)) string {
		r := requests(t)[id]
		change(&r)
		return mustAdd(t, testStore(t), r).UUID
	}
	for id := range requests(t) {
		want := of(id, func(*Request) {})
		for name, change := range map[string]func(*Request){
			"the ID":       func(r *Request) { r.ID = "z" },
			"the name":     func(r *Request) { r.Name = ptr("Z") },
			"the password": func(r *Request) { r.Password = "z" },
			"the secret": func(r *Request) {
				if r.Secret != "" {
					r.Secret = "z"
				}
				r.RcloneConfig = Secret(strings.ReplaceAll(string(r.RcloneConfig), marker, "z"))
			},
		} {
			if got := of(id, change); got != want {
				t.Errorf("%s: %s changes the UUID from %s to %s", id, name, want, got)
			}
		}
		if got := of(id, func(r *Request) {
			name := "path"
			if r.Provider == "rest" {
				name = "url"
			}
			r.Parameters[name] += "x"
		}); got == want {
			t.Errorf("%s: another place has the same UUID", id)
		}
	}
}

func TestObscure(t *testing.T) {
	for _, want := range []Secret{"a", "pass word", "ü€\n", Secret(bytes.Repeat([]byte("x"), 1000)), ""} {
		text := obscure(want)
		got, err := reveal(text)
		if err != nil || got != want {
			t.Errorf("reveal(obscure(%q)) = %q, %v", string(want), string(got), err)
		}
		if text == obscure(want) {
			t.Errorf("%q looks twice the same", string(want))
		}
	}
	for _, text := range []string{"", "abc", "not base64!", "AAAA"} {
		if _, err := reveal(text); err == nil {
			t.Errorf("reveal(%q) is no error", text)
		}
	}
}

// TestObscureIsRclones asks the real rclone, both ways.
func TestObscureIsRclones(t *testing.T) {
	needRclone(t)
	const want = "pässword $x`"
	out, err := exec.CommandContext(t.Context(), "rclone", "reveal", "--", obscure(want)).Output()
	if got := strings.TrimSuffix(string(out), "\n"); err != nil || got != want {
		t.Errorf("rclone reveals %q, %v; want %q", got, err, want)
	}
	cmd := exec.CommandContext(t.Context(), "rclone", "obscure", "-")
	cmd.Stdin = strings.NewReader(want)
	out, err = cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := reveal(strings.TrimSpace(string(out))); err != nil || got != want {
		t.Errorf("reveal of what rclone obscured = %q, %v; want %q", string(got), err, want)
	}
}
