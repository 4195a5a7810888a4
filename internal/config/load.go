package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

const (
	maxFileBytes = 16 << 20
	// defaultTextfileDir is where Debian's node_exporter reads text files; it is used where it exists.
	defaultTextfileDir = "/var/lib/prometheus/node-exporter"
	version            = 1
)

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// Load reads the configuration of the layers, lowest first: folders whose *.toml are read, or single files. Of files of the
// same name that of the highest layer counts, and an empty one masks the others, as of systemd's own files. checkProperty
// judges the systemd properties of modules; nil leaves them unjudged.
func Load(layers []string, checkProperty func(name string, value any) error) *Config {
	l := newLoader(checkProperty)
	for _, path := range l.find(layers) {
		l.file(path)
	}
	return l.finish()
}

func newLoader(checkProperty func(name string, value any) error) *loader {
	return &loader{
		Config: &Config{
			Destinations: map[string]*Destination{},
			Modules:      map[string]*Module{},
			Backups:      map[string]*Backup{},
			Remotes:      map[string]*Remote{},
			places:       map[string]Position{},
		},
		checkProperty: checkProperty,
		taken:         map[string]Position{},
		elements:      map[string][]int{},
	}
}

// finish completes and returns the configuration when all files are read.
func (l *loader) finish() *Config {
	l.defaults()
	l.references()
	l.Add(l.problems...)
	return l.Config
}

type loader struct {
	*Config
	checkProperty func(name string, value any) error
	problems      []Problem
	lines         map[string]int      // of the file that is being read
	taken         map[string]Position // of items; places will not do, [module.a] user = ... and [module."a.user"] are one there
	elements      map[string][]int    // of lists with refused elements: where those that are left stand in the file
}

// find returns the files to read, in the order of their base names.
func (l *loader) find(layers []string) []string {
	chosen := map[string]string{}
	for _, layer := range layers {
		info, err := os.Stat(layer)
		switch {
		case errors.Is(err, fs.ErrNotExist) && len(layers) > 1:
			continue
		case err != nil && len(layers) == 1 && errors.Is(err, fs.ErrNotExist):
			l.fileProblem(Position{File: layer}, "does not exist; write the configuration there, or name another place with --config")
			continue
		case err != nil:
			l.fileProblem(Position{File: layer}, "cannot be examined: %v", plain(err))
			continue
		case !info.IsDir():
			chosen[filepath.Base(layer)] = layer
			continue
		}
		entries, err := os.ReadDir(layer)
		if err != nil {
			l.fileProblem(Position{File: layer}, "cannot be listed: %v", plain(err))
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".toml") && e.Name()[0] != '.' {
				chosen[e.Name()] = filepath.Join(layer, e.Name())
			}
		}
	}
	var files []string
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		files = append(files, chosen[name])
	}
	return files
}

func (l *loader) fileProblem(p Position, format string, args ...any) {
	l.problems = append(l.problems, Problem{Position: p, Kind: KindFile, Message: fmt.Sprintf(format, args...)})
}

// plain takes the path from an error that will be printed behind it.
func plain(err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (l *loader) file(path string) {
	if target, err := filepath.EvalSymlinks(path); err == nil && target == os.DevNull {
		return // masked
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		l.fileProblem(Position{File: path}, "cannot be read: %v", plain(err))
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		l.fileProblem(Position{File: path}, "is no regular file")
		return
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	switch {
	case err != nil:
		l.fileProblem(Position{File: path}, "cannot be read: %v", plain(err))
		return
	case len(data) > maxFileBytes:
		l.fileProblem(Position{File: path}, "is larger than %d MiB", maxFileBytes>>20)
		return
	}
	l.bytes(path, data)
}

// bytes reads one file's content.
func (l *loader) bytes(path string, data []byte) {
	if !utf8.Valid(data) {
		l.fileProblem(Position{path, 1 + strings.Count(string(data[:invalidAt(data)]), "\n")}, "is not UTF-8; want text in UTF-8, as TOML has it")
		return
	}
	l.Files = append(l.Files, path)
	l.text(path, string(data))
}

func invalidAt(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(data)
}

// text reads one file's text.
func (l *loader) text(path, text string) {
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		position := Position{File: path}
		message := err.Error()
		if e := (toml.ParseError{}); errors.As(err, &e) {
			position.Line = e.Position.Line
			if message = e.Message; message == "" {
				message = strings.TrimPrefix(e.Error(), "toml: ")
			}
		}
		l.fileProblem(position, "is not TOML: %s", message)
		return
	}
	l.lines = places(text)
	for key, line := range l.lines {
		if _, known := l.places[key]; !known { // of an item that is there twice the first one counts
			l.places[key] = Position{path, line}
		}
	}
	top := &table{loader: l, file: path, kind: KindFile, data: tree, known: map[string]bool{}}
	if message := wrongVersion(tree["version"]); message != "" {
		l.fileProblem(top.at("version"), "%s", message)
		return // its keys may mean something else
	}
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		switch key {
		case "version":
		case "node", "metrics", "gateway", "serve":
			data, ok := tree[key].(map[string]any)
			if !ok {
				l.fileProblem(top.at(key), "%s is %s; want a table, [%s]", key, typeName(tree[key]), key)
				continue
			}
			l.item(path, Kind(key), "", data)
		case "destination", "module", "backup", "remote":
			items, ok := tree[key].(map[string]any)
			if !ok {
				l.fileProblem(top.at(key), "%s is %s; want tables with an ID, [%s.ID]", key, typeName(tree[key]), key)
				continue
			}
			for _, id := range slices.SortedFunc(maps.Keys(items), compareNatural) {
				data, ok := items[id].(map[string]any)
				if !ok {
					l.fileProblem(top.at(key+"."+id), "%s.%s is %s; want tables with an ID, [%s.ID]", key, id, typeName(items[id]), key)
					continue
				}
				l.item(path, Kind(key), id, data)
			}
		default:
			hint := "known are [node], [metrics], [gateway], [serve], [destination.ID], [module.ID], [backup.ID] and [remote.ID]"
			if near := nearest(key, []string{"node", "metrics", "gateway", "serve", "destination", "module", "backup", "remote", "version"}); near != "" {
				hint = "did you mean " + near + "?"
			}
			l.problems = append(l.problems, Problem{Position: top.at(key), Kind: KindFile, Key: key, Message: "is not known here; " + hint})
		}
	}
}

// wrongVersion says what is wrong with the version of the grammar that a file is written in, and what to do. Nothing of such a file is guessed.
func wrongVersion(value any) string {
	switch v, isNumber := value.(int64); {
	case value == nil || v == version:
		return ""
	case !isNumber:
		return fmt.Sprintf("version is %s; want version = %d", typeName(value), version)
	case v > version:
		return fmt.Sprintf("version %d is of a later sdbackup, and this one knows %d; install that one, or write the file as sdbackup.toml(5) has it and say version = %d", v, version, version)
	default:
		return fmt.Sprintf("version %d is an older grammar, and this sdbackup knows %d; change the file as VERSIONS in sdbackup.toml(5) tells, and say version = %d", v, version, version)
	}
}

func (t *table) at(key string) Position { return Position{t.file, t.lines[key]} }

// item reads one table.
func (l *loader) item(file string, kind Kind, id string, data map[string]any) {
	name := itemName(kind, id)
	t := &table{loader: l, file: file, kind: kind, id: id, name: name, data: data, known: map[string]bool{}}
	here := Position{file, l.lines[name]}
	if kind != KindNode && kind != KindMetrics && kind != KindGateway && kind != KindServe && !ValidID(id) {
		t.errorf("", "%q is no ID; want up to 64 letters, digits, _, . and -, the first one a letter or digit", id)
		return
	}
	if kind == KindBackup && strings.HasSuffix(id, ".json") {
		t.errorf("", "%q ends in .json, as the files with the records of backups do; want another ID", id)
		return
	}
	if first, taken := l.taken[name]; taken {
		t.errorf("", "is there twice, also at %s; want it once", first)
		return
	}
	l.taken[name] = here
	switch kind {
	case KindNode:
		l.Node = t.node()
	case KindMetrics:
		l.Metrics.TextfileDir = t.path("textfile-dir")
	case KindGateway:
		l.Gateway = t.gateway()
	case KindServe:
		l.Serve = t.serve()
	case KindDestination:
		l.Destinations[id] = t.destination(here)
	case KindModule:
		l.Modules[id] = t.module(here)
	case KindBackup:
		l.Backups[id] = t.backup(here)
	case KindRemote:
		l.Remotes[id] = t.remote(here)
	}
	t.finish()
}

func (t *table) node() Node {
	n := Node{Name: t.text("name"), UUID: t.text("uuid"), PassphraseFile: t.path("passphrase-file"), PassphraseCredential: t.text("passphrase-credential")}
	t.checkUUID(n.UUID)
	t.fileOrCredential("passphrase-file", "passphrase-credential", n.PassphraseCredential)
	t.secretFile("passphrase-file", n.PassphraseFile)
	return n
}

func (t *table) destination(here Position) *Destination {
	d := &Destination{Position: here, ID: t.id, Name: t.text("name")}
	if d.Name == "" {
		d.Name = t.id
	}
	d.Bucket = t.bucket()
	if d.Bucket == nil || t.data["repository"] != nil {
		d.Repository = t.required("repository", `the prefix of restic repositories, as in repository = "/srv/backup"`)
	} else {
		t.known["repository"] = true
	}
	d.PasswordFile = t.nearby("password-file")
	d.PasswordCredential = t.text("password-credential")
	d.EnvironmentFile = t.nearby("environment-file")
	switch {
	case hasPassword(d.Repository):
		t.errorf("repository", "holds a password; want it in environment-file, as RESTIC_REST_PASSWORD=... or what restic reads for this kind of repository")
	case strings.HasPrefix(d.Repository, ".") || d.Repository != "" && !strings.ContainsAny(d.Repository, ":/"):
		t.errorf("repository", "%q is no absolute path and no restic repository; want /path, sftp:, s3:, rest: ...", d.Repository)
	}
	for _, key := range []string{"password", "secret", "key", "token"} {
		if _, ok := t.data[key]; ok {
			t.known[key] = true
			t.errorf(key, "is a secret in a file that many can read; want it in a file of its own, as in password-file = \"/etc/sdbackup/secret/%s.password\"", t.id)
		}
	}
	if !t.filled("password-file") && !t.filled("password-credential") {
		t.errorf("", "has no password; want password-file or password-credential")
	}
	t.fileOrCredential("password-file", "password-credential", d.PasswordCredential)
	t.secretFile("password-file", d.PasswordFile)
	if EmptySecretFile(d.PasswordFile) {
		t.errorf("password-file", "%s is empty; want the password of the repositories in it", d.PasswordFile)
	}
	t.secretFile("environment-file", d.EnvironmentFile)
	t.gatewayKeys(d)
	if d.Bucket != nil {
		switch {
		case d.Gateway:
			t.errorf("bucket", "cannot be behind the gateway, which knows restic's repositories alone; want a destination of its own")
		case !t.filled("environment-file"):
			t.errorf("bucket", "has no keys; want environment-file with AWS_ACCESS_KEY_ID=... and AWS_SECRET_ACCESS_KEY=...")
		}
	}
	return d
}

func (t *table) checkUUID(text string) {
	if text != "" && !uuidPattern.MatchString(text) {
		t.errorf("uuid", "%q is no UUID in lower case; want one as printed by uuidgen", text)
	}
}

// fileOrCredential judges two keys of which only one may say where a secret is.
func (t *table) fileOrCredential(fileKey, credentialKey, credential string) {
	switch {
	case t.filled(fileKey) && t.filled(credentialKey):
		t.errorf(credentialKey, "stands beside %s; want one of them", fileKey)
	case strings.ContainsAny(credential, "/:") || strings.HasPrefix(credential, "."):
		t.errorf(credentialKey, "%q is no name of a credential, systemd.exec(5)", credential)
	}
}

func (t *table) secretFile(key, path string) {
	if path == "" {
		return
	}
	switch err := CheckSecretFile(path); {
	case errors.Is(err, fs.ErrPermission):
		t.warnf(key, "%s cannot be examined by this user", path)
	case errors.Is(err, fs.ErrNotExist):
		t.errorf(key, "%s does not exist; want a file of mode 0600", path)
	case err != nil:
		t.errorf(key, "%v", plain(err))
	}
}

func (t *table) module(here Position) *Module {
	m := &Module{
		Position:     here,
		ID:           t.id,
		Engine:       t.text("engine"),
		Type:         t.required("type", `the kind of application, as in type = "dokuwiki"`),
		UUID:         t.required("uuid", "the module's UUID, as printed by uuidgen"),
		UIName:       t.text("ui-name"),
		User:         t.text("user"),
		Group:        t.text("group"),
		Directory:    t.path("directory"),
		Include:      t.list("include", false),
		Exclude:      t.list("exclude", false),
		DumpState:    t.command("dump-state"),
		CleanupState: t.command("cleanup-state"),
		MinFiles:     t.number("min-files", 1, 0),
		OnPartial:    t.text("on-partial"),
		ReadAll:      t.boolean("read-all", false),
		Units:        t.list("units", false),
		RestoreState: t.command("restore-state"),

		MaxSize:       t.size("max-size"),
		UploadLimit:   t.size("upload-limit"),
		DownloadLimit: t.size("download-limit"),
	}
	switch {
	case m.Type != "" && !ValidID(m.Type):
		t.errorf("type", "%q cannot be a folder of the destination; want letters, digits, _, . and -", m.Type)
	case slices.Contains(reserved, m.Type):
		t.errorf("type", "%s is a part of every repository; want another name for the kind of application", m.Type)
	}
	t.checkUUID(m.UUID)
	if m.UIName == "" {
		m.UIName = t.id
	}
	if m.User == "" {
		m.User = "root"
		if os.Geteuid() != 0 {
			m.User = "" // of the caller
		}
	}
	switch m.OnPartial {
	case "":
		m.OnPartial = "fail"
	case "fail", "warn":
	default:
		t.errorf("on-partial", `is %q; want "fail" or "warn"`, m.OnPartial)
	}
	m.Exclude = append(m.Exclude, t.excludeFiles()...)
	m.Dumps = t.dumps()
	m.Drill = t.drill()
	m.RequireMount = t.mounts(m)
	t.engine(m)
	if !t.filled("include") && !t.filled("dump") {
		t.errorf("include", "is %s; want what to save, as in include = [\"data\"], or a [[%s.dump]]", t.lack("include"), t.name)
	}
	for i, p := range m.Include {
		if !filepath.IsAbs(p) && m.Directory == "" && t.data["directory"] == nil {
			t.errorf(t.element(t.name, "include", i), "%q is relative and there is no directory; want directory, or an absolute path", p)
		}
	}
	for i, unit := range m.Units {
		if !unitName.MatchString(unit) {
			t.errorf(t.element(t.name, "units", i), "%q is no name of a unit; want one as in \"wiki.service\", systemd.unit(5)", unit)
		}
	}
	if resources := t.sub("resources"); resources != nil {
		m.Resources = resources.data
		for _, name := range slices.Sorted(maps.Keys(resources.data)) {
			if t.checkProperty == nil {
				break
			}
			if err := t.checkProperty(name, resources.data[name]); err != nil {
				resources.errorf(name, "%v", err)
			}
		}
	}
	return m
}

// unitName matches names that systemctl takes, without an alias for a path or a pattern.
var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,200}\.(service|socket|target|timer|path|mount|automount|swap|slice|scope)$`)

// dumps reads the [[dump]] tables.
func (t *table) dumps() []Dump {
	v, ok := t.get("dump")
	if !ok {
		return nil
	}
	var tables []map[string]any
	switch v := v.(type) {
	case []map[string]any:
		tables = v
	case []any: // inline: dump = [{...}]
		for _, e := range v {
			data, ok := e.(map[string]any)
			if !ok {
				t.errorf("dump", "holds %s; want tables, [[%s.dump]]", typeName(e), t.name)
				return nil
			}
			tables = append(tables, data)
		}
	default:
		t.errorf("dump", "is %s; want [[%s.dump]]", typeName(v), t.name)
		return nil
	}
	var dumps []Dump
	taken := map[string]bool{}
	for i, data := range tables {
		sub := &table{
			loader: t.loader, file: t.file, kind: t.kind, id: t.id, data: data, known: map[string]bool{},
			name: fmt.Sprintf("%s.dump[%d]", t.name, i),
		}
		d := Dump{Filename: sub.required("filename", "the name of the dump in the snapshot")}
		if _, ok := data["command"]; !ok {
			sub.known["command"] = true
			sub.errorf("command", "is missing; want the program that prints the dump, and its arguments")
		} else {
			d.Command = sub.command("command")
		}
		switch {
		case strings.Contains(d.Filename, "/") || d.Filename == "." || d.Filename == "..":
			sub.errorf("filename", "%q is no file name; want one without a slash", d.Filename)
		case strings.Contains(d.Filename, ","):
			sub.errorf("filename", "%q has a comma, which restic's tags cannot have", d.Filename)
		case taken[d.Filename]:
			sub.errorf("filename", "%q is that of another dump of this module, too", d.Filename)
		}
		taken[d.Filename] = true
		sub.finish()
		dumps = append(dumps, d)
	}
	return dumps
}

// mounts reads require-mount: true for the module's directory, or a list of paths.
func (t *table) mounts(m *Module) []string {
	switch v, _ := t.get("require-mount"); v := v.(type) {
	case bool:
		if v && m.Directory == "" {
			t.errorf("require-mount", "is true and there is no directory; want directory, or a list of paths")
		} else if v {
			return []string{m.Directory}
		}
		return nil
	}
	paths := t.list("require-mount", true)
	for i, p := range paths {
		if !filepath.IsAbs(p) {
			t.errorf(t.element(t.name, "require-mount", i), "%q is no absolute path", p)
		}
	}
	return paths
}

func (t *table) backup(here Position) *Backup {
	b := &Backup{
		Position:          here,
		ID:                t.id,
		Name:              t.text("name"),
		Schedule:          t.list("schedule", true),
		RandomizedDelay:   t.duration("randomized-delay", 0),
		RandomizedOffset:  t.duration("randomized-offset", 0),
		Accuracy:          t.duration("accuracy", time.Minute),
		Persistent:        t.boolean("persistent", true),
		Destination:       t.required("destination", "the ID of a [destination.ID]"),
		Modules:           t.list("modules", false),
		MaxParallel:       t.number("max-parallel", 1, 1),
		RetryInterval:     t.duration("retry-interval", time.Minute),
		RetryTimeout:      t.duration("retry-timeout", time.Hour),
		Timeout:           t.limit("timeout", 24*time.Hour),
		NoProgressTimeout: t.limit("no-progress-timeout", time.Hour),
		PruneInterval:     t.limit("prune-interval", 7*24*time.Hour),
		Enabled:           t.boolean("enabled", true),
		OnSuccess:         t.command("on-success"),
		OnFailure:         t.command("on-failure"),
		OnConflict:        t.command("on-conflict"),
		OnPartial:         t.command("on-partial"),
		PingURL:           t.text("ping-url"),
	}
	if b.Name == "" {
		b.Name = "Backup " + t.id
	}
	if t.data["schedule"] == nil {
		t.errorf("schedule", `is missing; want when to run, as in schedule = "daily", systemd.time(7)`)
	}
	if !t.filled("modules") {
		t.errorf("modules", `is %s; want the IDs of modules, as in modules = ["wiki1"]`, t.lack("modules"))
	}
	if b.RandomizedDelay > 0 && b.RandomizedOffset > 0 {
		t.errorf("randomized-offset", "stands beside randomized-delay; want one of them")
	}
	if b.RetryInterval <= 0 {
		t.errorf("retry-interval", "is 0; want how long to wait at most between attempts")
		b.RetryInterval = time.Minute
	}
	if b.PingURL != "" {
		if u, err := url.Parse(b.PingURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			t.errorf("ping-url", "is no URL; want one that begins with https:// or http://")
			b.PingURL = ""
		}
	}
	b.Retention = t.retention()
	b.Check = t.check()
	return b
}

func (t *table) check() Check {
	sub := t.sub("check")
	if sub == nil {
		return Check{}
	}
	c := Check{Schedule: sub.list("schedule", true), ReadDataSubset: sub.number("read-data-subset", 1, 0)}
	sub.needSchedule(`when to check, as in schedule = "weekly"`)
	sub.finish()
	return c
}

func (t *table) drill() Drill {
	sub := t.sub("drill")
	if sub == nil {
		return Drill{}
	}
	d := Drill{Schedule: sub.list("schedule", true), Sample: sub.size("sample"), Command: sub.command("command")}
	sub.needSchedule(`when to restore for practice, as in schedule = "monthly"`)
	sub.finish()
	return d
}

func (t *table) needSchedule(want string) {
	if t.data["schedule"] == nil {
		t.errorf("schedule", "is missing; want %s, systemd.time(7)", want)
	}
}

var keepWithin = regexp.MustCompile(`^([0-9]+[ymdh])+$`)

// retention reads a table of restic's keep-* options, or a number for keep-last.
func (t *table) retention() Retention {
	if _, ok := t.data["retention"].(int64); ok {
		return Retention{KeepLast: t.number("retention", 1, 0)}
	}
	sub := t.sub("retention")
	if sub == nil {
		return Retention{}
	}
	r := Retention{
		KeepLast:    sub.number("keep-last", 1, 0),
		KeepHourly:  sub.number("keep-hourly", 1, 0),
		KeepDaily:   sub.number("keep-daily", 1, 0),
		KeepWeekly:  sub.number("keep-weekly", 1, 0),
		KeepMonthly: sub.number("keep-monthly", 1, 0),
		KeepYearly:  sub.number("keep-yearly", 1, 0),
		KeepWithin:  sub.text("keep-within"),
	}
	if r.KeepWithin != "" && !keepWithin.MatchString(r.KeepWithin) {
		sub.errorf("keep-within", "%q is no duration of restic's; want numbers with y, m, d or h, as in 1y5m7d2h", r.KeepWithin)
	}
	if len(sub.data) == 0 {
		t.errorf("retention", "is empty; want at least one of keep-last, keep-daily ..., or leave it out to keep everything")
	}
	sub.finish()
	return r
}

// defaults fills in what depends on the machine.
func (l *loader) defaults() {
	if l.Gateway.URL == "" {
		l.Gateway.URL = DefaultGatewayURL
	}
	if l.Serve.Listen == nil {
		l.Serve.Listen = []string{DefaultServe}
	}
	if l.Node.Name == "" {
		name, err := os.Hostname()
		if err != nil || name == "" {
			name = "localhost"
		}
		l.Node.Name = name
	}
	if _, set := l.places["metrics.textfile-dir"]; !set && os.Geteuid() == 0 {
		if info, err := os.Stat(defaultTextfileDir); err == nil && info.IsDir() {
			l.Metrics.TextfileDir = defaultTextfileDir
		}
	}
}

// references checks what items say of each other.
func (l *loader) references() {
	for _, id := range l.BackupIDs() {
		b := l.Backups[id]
		if b.Destination != "" && l.Destinations[b.Destination] == nil {
			l.reference(b, "destination", fmt.Sprintf("there is no [destination.%s]", b.Destination), nearest(b.Destination, sorted(l.Destinations)))
		}
		seen := map[string]bool{}
		for i, m := range b.Modules {
			key := l.element("backup."+id, "modules", i)
			switch {
			case seen[m]:
				l.reference(b, key, fmt.Sprintf("%s is listed twice", m), "")
			case l.Modules[m] == nil:
				l.reference(b, key, fmt.Sprintf("there is no [module.%s]", m), nearest(m, sorted(l.Modules)))
			default:
				if text := l.engineProblem(b, l.Modules[m]); text != "" {
					l.reference(b, key, text, "")
				}
			}
			seen[m] = true
		}
		b.Modules = slices.DeleteFunc(b.Modules, func(m string) bool {
			first := seen[m]
			seen[m] = false
			return !first
		})
		if b.Retention.IsZero() {
			if _, set := l.places["backup."+id+".retention"]; !set {
				l.problems = append(l.problems, Problem{
					Position: b.Position, Kind: KindBackup, ID: id, Key: "backup." + id + ".retention", Warning: true,
					Message: "is missing: every snapshot is kept for ever; say retention = 30 to keep the last 30",
				})
			}
		}
	}
	l.nodeCopies()
	first := map[string]string{}
	for _, id := range l.ModuleIDs() {
		m := l.Modules[id]
		if m.HasDrill() && len(l.DrillTurns(id)) == 0 {
			l.problems = append(l.problems, Problem{
				Position: l.PositionOf(KindModule, id, "drill"), Kind: KindModule, ID: id, Key: "module." + id + ".drill", Warning: true,
				Message: "has no effect: no enabled backup saves the module, so there is nothing to restore",
			})
		}
		repository := m.Type + "/" + m.UUID
		if other, taken := first[repository]; taken && m.UUID != "" {
			l.problems = append(l.problems, Problem{
				Position: l.PositionOf(KindModule, id, "uuid"), Kind: KindModule, ID: id, Key: "module." + id + ".uuid",
				Message: fmt.Sprintf("is that of module %s (%s), too: they would share a repository; want a UUID of its own", other, l.Modules[other].Position),
			})
			continue
		}
		first[repository] = id
	}
}

func (l *loader) reference(b *Backup, key, message, near string) {
	if near != "" {
		message += "; did you mean " + near + "?"
	}
	l.problems = append(l.problems, Problem{
		Position: l.PositionOf(KindBackup, b.ID, key), Kind: KindBackup, ID: b.ID, Key: "backup." + b.ID + "." + key, Message: message,
	})
}

func ownerOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }
