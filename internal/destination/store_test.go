package destination

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/lock"
)

// local is a request for a folder.
func local(id, path string) Request {
	return Request{ID: id, Provider: "local", Parameters: map[string]string{"path": path}, Password: "pw-" + marker}
}

// b2 is one for a remote of rclone's.
func b2(id, bucket string) Request {
	return Request{ID: id, Provider: "b2", Parameters: map[string]string{"bucket": bucket, "account": "acc"}, Secret: marker, Password: "pw-" + marker}
}

func TestGeneratedPassword(t *testing.T) {
	s := testStore(t)
	r := local("a", "/srv/a")
	r.Password = ""
	result := mustAdd(t, s, r)
	if got := string(result.Password); len(got) != 64 || strings.Trim(got, "0123456789abcdef") != "" {
		t.Errorf("the password is %q; want 64 hexadecimal digits", got)
	}
	if got := read(t, s.passwordPath("a")); got != string(result.Password)+"\n" {
		t.Errorf("the file has %q", got)
	}
	if again := mustAdd(t, s, Request{ID: "b", Provider: "local", Parameters: map[string]string{"path": "/srv/b"}}); again.Password == result.Password {
		t.Error("twice the same password")
	}
	if fmt.Sprint(result, result.Password) != strings.ReplaceAll(fmt.Sprint(result, result.Password), read(t, s.passwordPath("a"))[:64], "") {
		t.Error("a result prints the password by accident")
	}
}

func TestFolders(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	s := testStore(t)
	mustAdd(t, s, local("a", "/srv/a"))
	for dir, want := range map[string]os.FileMode{s.Dir: 0o755, s.SecretDir(): 0o700} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %o", dir, info.Mode(), err, want)
		}
	}
	if err := os.Chmod(s.SecretDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, s, local("b", "/srv/b"))
	if info, _ := os.Stat(s.SecretDir()); info.Mode().Perm() != 0o700 {
		t.Error("a folder of secrets that others could look into stays so")
	}
}

func TestDuplicates(t *testing.T) {
	s := testStore(t)
	mustAdd(t, s, b2("a", "bucket"))
	write(t, filepath.Join(s.Dir, "hand.toml"), "[destination.hand]\nrepository = \"/srv/hand\"\npassword-credential = \"x\"\n")
	write(t, filepath.Join(s.credentials, "credstore/x"), "pw")
	write(t, s.Path("odd"), "# nothing in here\n")
	write(t, filepath.Join(s.Layers[0], "destination-low.toml"), "[backup.1]\n")
	for name, c := range map[string]struct {
		request Request
		want    string
		same    bool
	}{
		"the same ID":             {b2("a", "other"), "a", false},
		"the same place":          {b2("b", "bucket"), "a", true},
		"an ID written by hand":   {local("hand", "/srv/x"), "hand", false},
		"a place written by hand": {local("b", "/srv/hand/"), "hand", true},
		"a file that is there":    {local("odd", "/srv/odd"), "odd", false},
	} {
		before := tree(t, s.Dir)
		_, err := s.Add(t.Context(), c.request)
		if e := (*ExistsError)(nil); !errors.As(err, &e) || e.ID != c.want || e.Same != c.same || !strings.Contains(err.Error(), e.Place.File) {
			t.Errorf("%s: %v; want that it is %s already, and where", name, err, c.want)
		}
		if !maps.Equal(before, tree(t, s.Dir)) {
			t.Errorf("%s: files changed", name)
		}
	}
	if _, err := s.Add(t.Context(), local("low", "/srv/low")); err == nil || !strings.Contains(err.Error(), "backup.1") {
		t.Errorf("a file that masks another's backup was written: %v", err)
	}
	mustAdd(t, s, b2("c", "other"))
}

func TestAlter(t *testing.T) {
	for name, c := range map[string]struct {
		add, alter Request
		toml, conf string // that must be in the files
		gone       string // that must not
		err        string
	}{
		"name": {add: b2("a", "b"), alter: Request{Name: ptr("N")}, toml: `name = "N"`, conf: "key = " + marker},
		"no name": {
			add: Request{Provider: "local", Parameters: map[string]string{"path": "/srv"}, Name: ptr("N")}, alter: Request{Name: ptr("")}, gone: "name =",
		},
		"another bucket": {add: b2("a", "b"), alter: Request{Parameters: map[string]string{"bucket": "c"}}, toml: `"rclone:a:c"`, conf: "key = " + marker},
		"secret":         {add: b2("a", "b"), alter: Request{Secret: "new"}, conf: "key = new", gone: "= " + marker},
		"no path": {
			add:   Request{Provider: "b2", Secret: "k", Parameters: map[string]string{"bucket": "b", "account": "a", "path": "x"}},
			alter: Request{Parameters: map[string]string{"path": ""}}, toml: `"rclone:a:b"`,
		},
		"bucket is needed": {add: b2("a", "b"), alter: Request{Parameters: map[string]string{"bucket": ""}}, err: "--bucket: is missing"},
		"limits": {
			add: b2("a", "b"), alter: Request{MaxSize: ptr("1536M"), KeepDeleted: ptr("36h")}, toml: "max-size = \"1536M\"\nkeep-deleted = \"36h\"\n",
		},
		"no limits": {
			add:   Request{Provider: "b2", Secret: "k", Parameters: map[string]string{"bucket": "b", "account": "a"}, MaxSize: ptr("1T"), KeepDeleted: ptr("1d")},
			alter: Request{MaxSize: ptr("0"), KeepDeleted: ptr("")}, gone: "max-size",
		},
		"no gateway":           {add: b2("a", "b"), alter: Request{Gateway: ptr(false)}, toml: "gateway = false"},
		"gateway":              {add: local("a", "/srv"), alter: Request{Gateway: ptr(true)}, toml: "gateway = true"},
		"the same provider":    {add: b2("a", "b"), alter: Request{Provider: "b2"}, toml: "rclone:a:b"},
		"another provider":     {add: b2("a", "b"), alter: Request{Provider: "s3"}, err: "has provider b2"},
		"not its parameter":    {add: b2("a", "b"), alter: Request{Parameters: map[string]string{"host": "h"}}, err: "not for provider b2"},
		"limit but no gateway": {add: local("a", "/srv"), alter: Request{MaxSize: ptr("1G")}, err: "want gateway = true"},
		"rest": {
			add:   Request{Provider: "rest", Secret: "x", Parameters: map[string]string{"url": "https://h/", "username": "u"}},
			alter: Request{Parameters: map[string]string{"username": "v"}}, conf: "RESTIC_REST_USERNAME=v\nRESTIC_REST_PASSWORD=x\n",
		},
		"s3 is recognised anew": {
			add:   Request{Provider: "s3", Secret: "x", Parameters: map[string]string{"region": "r", "bucket": "b", "access-key-id": "a"}},
			alter: Request{Parameters: map[string]string{"endpoint": "s3.wasabisys.com"}}, conf: "provider = Wasabi",
		},
		"s3 is not recognised anew": {
			add:   Request{Provider: "s3", Secret: "x", Parameters: map[string]string{"endpoint": "h", "s3-provider": "Minio", "bucket": "b", "access-key-id": "a"}},
			alter: Request{Parameters: map[string]string{"endpoint": "s3.wasabisys.com"}}, conf: "provider = Minio",
		},
		"remote": {
			add:   Request{Provider: "rclone", RcloneConfig: "[x]\ntype = drive\ntoken = " + marker},
			alter: Request{RcloneConfig: "[x]\ntype = dropbox\ntoken = new\n[y]\ntype = drive", Remote: "x"}, conf: "[a]\ntype = dropbox\ntoken = new\n", gone: marker,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			c.add.ID, c.alter.ID = "a", "a"
			if c.add.Password == "" {
				c.add.Password = "pw"
			}
			mustAdd(t, s, c.add)
			before := tree(t, s.Dir)
			_, err := s.Alter(t.Context(), c.alter)
			after := tree(t, s.Dir)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !maps.Equal(before, after) {
					t.Errorf("Alter = %v; want an error with %q, and nothing changed", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			all := ""
			for file, text := range after {
				if !strings.HasSuffix(file, ".password") {
					all += text
				}
			}
			if !strings.Contains(after["destination-a.toml"], c.toml) || !strings.Contains(all, c.conf) || c.gone != "" && strings.Contains(all, c.gone) {
				t.Errorf("the files are %v; want %q and %q, and no %q", after, c.toml, c.conf, c.gone)
			}
			if before["secret/a.password"] != after["secret/a.password"] || len(after) != len(before) {
				t.Error("the password has changed, or files came or went")
			}
			if problems := s.load().Errors(); len(problems) > 0 {
				t.Errorf("problems: %v", problems)
			}
		})
	}
}

// TestAlterKeepsWhatItDoesNotKnow: options that somebody wrote into the rclone.conf stay.
func TestAlterKeepsWhatItDoesNotKnow(t *testing.T) {
	s := testStore(t)
	mustAdd(t, s, b2("a", "b"))
	text := read(t, s.rclonePath("a")) + "chunk_size = 96Mi\n"
	write(t, s.rclonePath("a"), text)
	if _, err := s.Alter(t.Context(), Request{ID: "a", Secret: "new"}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s.rclonePath("a")); got != strings.ReplaceAll(text, marker, "new") {
		t.Errorf("rclone.conf is\n%s", got)
	}
}

func TestAlterPassword(t *testing.T) {
	s := testStore(t)
	mustAdd(t, s, local("a", "/srv"))
	for i, password := range []Secret{"two", "three", "three"} {
		result, err := s.Alter(t.Context(), Request{ID: "a", Password: password})
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, s.passwordPath("a")); got != string(password)+"\n" {
			t.Errorf("the password is %q", got)
		}
		want := []string{"pw-" + marker + "\n", "two\n", ""}[i]
		switch {
		case want == "" && result.Kept != "":
			t.Errorf("the same password again is kept in %s", result.Kept)
		case want != "" && read(t, result.Kept) != want:
			t.Errorf("kept is %q; want %q", read(t, result.Kept), want)
		}
	}
	if files := tree(t, s.SecretDir()); len(files) != 3 {
		t.Errorf("secrets are %v; want the password and the two before", files)
	}
}

func TestAlterToTheSamePlace(t *testing.T) {
	s := testStore(t)
	mustAdd(t, s, b2("a", "x"))
	mustAdd(t, s, b2("b", "y"))
	_, err := s.Alter(t.Context(), Request{ID: "b", Parameters: map[string]string{"bucket": "x"}})
	if e := (*ExistsError)(nil); !errors.As(err, &e) || e.ID != "a" || !e.Same {
		t.Errorf("Alter = %v; want that it is a already", err)
	}
}

func TestForeign(t *testing.T) {
	s := testStore(t)
	mustAdd(t, s, local("edited", "/srv/edited"))
	mustAdd(t, s, local("taken", "/srv/taken"))
	toml := read(t, s.Path("edited"))
	write(t, s.Path("edited"), toml+"\n[metrics]\ntextfile-dir = \"\"\n")
	write(t, s.Path("taken"), strings.SplitN(read(t, s.Path("taken")), "\n", 2)[1])
	write(t, filepath.Join(s.Dir, "hand.toml"), "# mine\n[destination.hand]\nrepository = \"/srv/hand\"\npassword-credential = \"x\"\n")
	write(t, filepath.Join(s.Layers[0], "low.toml"), "[destination.low]\nrepository = \"/srv/low\"\npassword-credential = \"x\"\n")
	before := tree(t, s.Dir)
	for id, want := range map[string]string{
		"edited": s.Path("edited") + ":2, beside metrics", "taken": s.Path("taken") + ":1, which", "hand": "hand.toml:2, which", "low": "low.toml:1, which",
	} {
		_, alterErr := s.Alter(t.Context(), Request{ID: id, Name: ptr("N")})
		_, removeErr := s.Remove(t.Context(), Removal{ID: id, Force: true})
		for _, err := range []error{alterErr, removeErr} {
			if e := (*ForeignError)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %q", id, err, want)
			}
		}
	}
	for _, err := range []error{
		second(s.Alter(t.Context(), Request{ID: "none"})), second(s.Remove(t.Context(), Removal{ID: "none"})),
		second(s.Show(t.Context(), "none", false)), second(s.Export(t.Context(), []string{"none"})), second(s.Validate(t.Context(), []string{"none"}, 1)),
	} {
		if e := (*UnknownError)(nil); !errors.As(err, &e) {
			t.Errorf("%v; want that there is none", err)
		}
	}
	if !maps.Equal(before, tree(t, s.Dir)) {
		t.Error("files changed")
	}
}

func second[T any](_ T, err error) error { return err }

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "one.toml")
	write(t, file, "")
	if _, err := Open(config.Paths{Config: []string{file}}, nil, nil); err == nil || !strings.Contains(err.Error(), "want a folder") {
		t.Errorf("Open of a file: %v", err)
	}
	t.Chdir(dir)
	s, err := Open(config.Paths{Config: []string{"new"}}, nil, nil)
	if err != nil || s.Dir != filepath.Join(dir, "new") {
		t.Errorf("Open of a relative folder that is not there: %v, %v", s, err)
	}
	if entries, problems := s.List(); len(entries) != 0 || len(problems) != 0 {
		t.Errorf("List of a folder that is not there: %v, %v", entries, problems)
	}
}

func TestOneAtATime(t *testing.T) {
	s := testStore(t)
	mustAdd(t, s, local("a", "/srv"))
	unlock, err := lock.Folder(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add(t.Context(), local("b", "/srv/b")); err == nil || !strings.Contains(err.Error(), "another process is changing") {
		t.Errorf("Add while another is at work: %v", err)
	}
	unlock()
	mustAdd(t, s, local("b", "/srv/b"))
}

var errStop = errors.New("stop")

// stopAt makes the store fail, or die, before its nth change; then the error tells whether there was one.
func stopAt(s *Store, n int, die bool) {
	s.before = func(change) error {
		if n--; n >= 0 {
			return nil
		}
		if die {
			panic(errStop)
		}
		return errStop
	}
}

// dies runs what may die by stopAt.
func dies(f func() error) (err error, dead bool) {
	defer func() {
		if p := recover(); p != nil {
			if p != errStop {
				panic(p)
			}
			dead = true
		}
	}()
	return f(), false
}

// operations are what writes, each on a store that prepare has filled.
var operations = map[string]struct {
	prepare func(*testing.T, *Store)
	do      func(*testing.T, *Store) error
}{
	"add": {
		func(t *testing.T, s *Store) { mustAdd(t, s, local("z", "/srv/z")) },
		func(t *testing.T, s *Store) error { return second(s.Add(t.Context(), b2("a", "b"))) },
	},
	"add over a forgotten password": {
		func(t *testing.T, s *Store) { write(t, s.passwordPath("a"), "old\n") },
		func(t *testing.T, s *Store) error { return second(s.Add(t.Context(), b2("a", "b"))) },
	},
	"alter": {
		func(t *testing.T, s *Store) { mustAdd(t, s, b2("a", "b")) },
		func(t *testing.T, s *Store) error {
			return second(s.Alter(t.Context(), Request{ID: "a", Parameters: map[string]string{"bucket": "c"}, Secret: "new", Password: "new", Name: ptr("N")}))
		},
	},
	"alter away from a user": {
		func(t *testing.T, s *Store) {
			mustAdd(t, s, Request{ID: "a", Provider: "rest", Secret: "x", Password: "x", Parameters: map[string]string{"url": "https://h/", "username": "u"}})
		},
		func(t *testing.T, s *Store) error {
			return second(s.Alter(t.Context(), Request{ID: "a", Gateway: ptr(true), Name: ptr("N"), Secret: "y"}))
		},
	},
	"remove": {
		func(t *testing.T, s *Store) {
			mustAdd(t, s, b2("a", "b"))
			write(t, filepath.Join(s.Dir, "b.toml"), "# mine\n[backup.1]\nschedule = \"daily\"\ndestination = \"a\"\nmodules = [\"m\"]\nretention = 3\n")
			write(t, filepath.Join(s.Dir, "m.toml"), "[module.m]\ntype = \"m\"\nuuid = \"3792c7db-9450-4bd3-84a3-034cd0087839\"\ninclude = [\"/m\"]\n")
		},
		func(t *testing.T, s *Store) error {
			return second(s.Remove(t.Context(), Removal{ID: "a", Force: true, ForgetPassword: true}))
		},
	},
	"import": {
		func(t *testing.T, s *Store) { mustAdd(t, s, local("z", "/srv/z")) },
		func(t *testing.T, s *Store) error {
			from := testStore(t)
			mustAdd(t, from, b2("a", "b"))
			mustAdd(t, from, local("c", "/srv/c"))
			doc, err := from.Export(t.Context(), nil)
			if err != nil {
				return err
			}
			return second(s.Import(t.Context(), doc, false))
		},
	},
}

// TestCrash kills each operation before each of its changes: the configuration must be without errors at any time, so every
// destination in it has its secrets, and doing it again must do it.
func TestCrash(t *testing.T) {
	for name, op := range operations {
		for n := 0; ; n++ {
			s := testStore(t)
			op.prepare(t, s)
			stopAt(s, n, true)
			err, dead := dies(func() error { return op.do(t, s) })
			if problems := s.load().Errors(); len(problems) > 0 {
				t.Errorf("%s, killed before change %d: %v", name, n, problems)
			}
			for id, d := range s.load().Destinations {
				if st, err := s.read(t.Context(), d); err != nil || st.password == "" {
					t.Errorf("%s, killed before change %d: destination %s has not its secrets: %v", name, n, id, err)
				}
			}
			if !dead {
				if err != nil || n < 2 {
					t.Errorf("%s: %v after %d changes", name, err, n)
				}
				break
			}
			s.before = nil
			if err := op.do(t, s); err != nil {
				if e := (*UnknownError)(nil); !errors.As(err, &e) { // removed, but for its secrets
					t.Errorf("%s, killed before change %d and done again: %v", name, n, err)
				}
			}
		}
	}
}

// TestFailure makes each operation fail before each of its changes: all must be as before.
func TestFailure(t *testing.T) {
	for name, op := range operations {
		for n := 0; ; n++ {
			s := testStore(t)
			op.prepare(t, s)
			before := tree(t, s.Dir)
			stopAt(s, n, false)
			err := op.do(t, s)
			if err == nil {
				break
			}
			if after := tree(t, s.Dir); !errors.Is(err, errStop) || !reflect.DeepEqual(before, after) {
				t.Errorf("%s, failed at change %d: %v\n%v\nwas\n%v", name, n, err, after, before)
			}
		}
	}
}

// TestOrder: secrets before the file that names them, and after it when they go.
func TestOrder(t *testing.T) {
	order := func(name string) []string {
		s := testStore(t)
		operations[name].prepare(t, s)
		var files []string
		s.before = func(c change) error {
			files = append(files, filepath.Base(c.path))
			return nil
		}
		if err := operations[name].do(t, s); err != nil {
			t.Fatal(err)
		}
		return files
	}
	for name, want := range map[string][]string{
		"add":    {"a.password", "a.rclone.conf", "destination-a.toml"},
		"remove": {"b.toml", "destination-a.toml", "a.password", "a.rclone.conf"},
	} {
		if got := order(name); !slices.Equal(got, want) {
			t.Errorf("%s changes %v; want %v", name, got, want)
		}
	}
}

// TestSweep: a temporary file of a dead writer, which may hold a secret, goes.
func TestSweep(t *testing.T) {
	s := testStore(t)
	mustAdd(t, s, local("a", "/srv"))
	litter := filepath.Join(s.SecretDir(), ".a.password123")
	write(t, litter, marker)
	if _, err := s.Alter(t.Context(), Request{ID: "a", Name: ptr("N")}); err != nil || exists(litter) {
		t.Errorf("Alter = %v; the litter is there: %t", err, exists(litter))
	}
}

func TestListAndShow(t *testing.T) {
	s := testStore(t)
	mustAdd(t, s, b2("a", "b"))
	mustAdd(t, s, Request{ID: "r", Provider: "rest", Secret: marker, Parameters: map[string]string{"url": "https://h/", "username": "u"}})
	write(t, filepath.Join(s.Dir, "hand.toml"), `[destination.sftp]
repository = "sftp:u@h:/x"
password-credential = "none"
[destination.leak]
repository = "rest:https://u:`+marker+`@h/"
password-credential = "none"
[backup.1]
schedule = "daily"
destination = "a"
modules = []
retention = 1
`)
	entries, problems := s.List()
	var got []string
	for _, e := range entries {
		got = append(got, fmt.Sprintf("%s %s %s %t %v", e.ID, e.Provider, e.Repository, e.Own, e.Backups))
	}
	want := []string{
		"a b2 rclone:a:b true [1]", "leak rest *** false []", "r rest rest:https://h/ true []", "sftp other sftp:u@h:/x false []",
	}
	if !slices.Equal(got, want) || len(problems) == 0 {
		t.Errorf("List = %q, %v; want %q and that the password is a mistake", got, problems, want)
	}
	for _, id := range []string{"a", "r", "sftp", "leak"} {
		d, err := s.Show(t.Context(), id, false)
		if err != nil || strings.Contains(fmt.Sprintf("%+v", d), marker) || d.Secrets != nil {
			t.Errorf("Show(%s) = %+v, %v; want no secret", id, d, err)
		}
		if id == "a" && (d.Options["account"] != "acc" || d.Options["type"] != "b2") {
			t.Errorf("Show(a) has the options %v", d.Options)
		}
	}
	d, err := s.Show(t.Context(), "a", true)
	if err != nil || d.Secrets["password"] != "pw-"+marker || d.Secrets["rclone.key"] != marker {
		t.Errorf("Show(a) with secrets: %v, %v", d.Secrets, err)
	}
	if d, err = s.Show(t.Context(), "r", true); err != nil || d.Secrets[restPassword] != marker {
		t.Errorf("Show(r) with secrets: %v, %v", d.Secrets, err)
	}
}

func TestFormats(t *testing.T) {
	for _, text := range []string{"1", "1023", "1K", "1536", "5M", "50G", "3T", "2P"} {
		n, err := parseSize("x", text)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := config.ParseSize(formatSize(n)); err != nil || again != n {
			t.Errorf("%s is written as %s, which is %d, %v", text, formatSize(n), again, err)
		}
	}
	for _, text := range []string{"1", "90s", "1h 30min", "30d", "1w", "500ms", "3us", "1y"} {
		d, err := parseSpan("x", text)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := config.ParseTimeSpan(formatSpan(d)); err != nil || again != d {
			t.Errorf("%s is written as %s, which is %s, %v", text, formatSpan(d), again, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	for _, value := range []string{"x", " x ", `"x"`, `'x`, `a"b`, "a=b", "#x", `\`, "ü"} {
		text := setVariable("# mine\nA=1\nB=0\n", "B", value)
		if got := getVariable(text, "B"); got != value || getVariable(text, "A") != "1" || !strings.HasPrefix(text, "# mine\n") || strings.Count(text, "B=") != 1 {
			t.Errorf("%q is written as\n%s\nand read as %q", value, text, got)
		}
	}
	if got := setVariable("A=1\nB=2", "A", ""); got != "B=2\n" {
		t.Errorf("without A: %q", got)
	}
	if got := variables("# A=1\nB=\"2 3\"\n\n; C=1\nnothing\nD=\n"); !slices.Equal(got, []string{"B=2 3", "D="}) {
		t.Errorf("the variables are %q", got)
	}
}

func TestMasker(t *testing.T) {
	var m masker
	m.add("ab", "secret", "secret/more", `qu"ote`)
	for text, want := range map[string]string{
		"the secret is out": "the *** is out", "secret/more": "***", "secret%2Fmore": "***", "ab": "ab", `say "qu\"ote"`: `say "***"`,
	} {
		if got := m.mask(text); got != want {
			t.Errorf("mask(%q) = %q; want %q", text, got, want)
		}
	}
	if got := fmt.Sprintf("%v %s %#v %q %+v", Secret(marker), Secret(marker), Secret(marker), Secret(marker), Request{Secret: marker}); strings.Contains(got, marker) {
		t.Errorf("a secret prints as %q", got)
	}
}
