package nodecopy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
)

// State is how a file of a plan compares with this machine.
type State string

// States of files.
const (
	New     State = "new"
	Same    State = "same"    // it is here already
	Differs State = "differs" // another one of that name is here
)

// Plan is what becomes of a copy on this machine. Nothing has been written yet.
type Plan struct {
	Node  Node // that the copy is of
	After Node // what this machine is known by then; without a UUID where it has none

	Files     []Planned        // in the order in which they are written: secrets before the configuration that names them
	LeftOut   []LeftOut        // what the copy has and this plan does not write
	Conflicts []Conflict       // destinations that stay as they are here
	Waiting   []Waiting        // modules that cannot be saved yet
	Missing   []Missing        // what was missing already when the copy was made
	Problems  []config.Problem // of the configuration as it would be, without those that it has today

	Overwrite      bool // Apply replaces what differs
	IgnoreProblems bool // Apply writes a configuration with mistakes

	target string             // highest layer: a folder, or the one file of --config
	folder string             // that, or of the file
	before func(change) error // called before each change, for tests
}

// Planned is one file of a plan.
type Planned struct {
	Path   string
	Mode   fs.FileMode
	State  State
	Secret bool
	Kept   string // where Apply keeps the secret that it replaces; "": it replaces none
	Data   Content

	folder fs.FileMode // of the folder where it is missing
}

// LeftOut is a file, or a credential, that is not written.
type LeftOut struct{ Name, Reason string }

// Conflict is a destination whose ID stands for another place here. The file that defines it in the copy, and its secrets, are left out.
type Conflict struct {
	ID      string
	Place   config.Position // of the one here
	Reason  string          // how they differ; it shows neither repository, for one may hold a password where it must not
	Backups []string        // of the copy, that would go to the one here
}

// Waiting is a module that the machine is not ready for. Its backups run as soon as it is.
type Waiting struct {
	Module  string
	Backups []string
	Reasons []string
}

// Errors returns the problems that are more than warnings.
func (p Plan) Errors() []config.Problem {
	return slices.DeleteFunc(slices.Clone(p.Problems), func(p config.Problem) bool { return p.Warning })
}

// Differing returns the paths of what Apply replaces, if it is told to.
func (p Plan) Differing() []string {
	var all []string
	for _, f := range p.Files {
		if f.State == Differs {
			all = append(all, f.Path)
		}
	}
	return all
}

// Folders below which a system's secrets may be written.
var systemRoots = []string{"/etc", "/run/sdbackup", "/usr/lib/sdbackup"}

// Plan compares the copy with this machine. Of the layers, only the files of the highest are written, and to the highest layer of
// paths: what is in /usr/lib belongs to packages, and /run is made anew at every boot. Secrets are written where the configuration in
// the copy says, when that is below /etc, /run/sdbackup, /usr/lib/sdbackup, the highest layer, or one of roots; with --user, below
// the latter two. Credentials are written into /etc/credstore, systemd.exec(5). Who owned a file is not known: it becomes the caller's.
//
// An error says that the copy does not fit these paths at all, or that this machine cannot be examined.
func (c Copy) Plan(paths config.Paths, roots ...string) (Plan, error) {
	p := &planner{Copy: c, paths: paths, roots: slices.Clone(roots), stores: []string{"/etc", "/run", "/usr/lib"}}
	if !paths.User {
		p.roots = append(p.roots, systemRoots...)
	}
	return p.plan()
}

type planner struct {
	Copy
	paths  config.Paths
	roots  []string
	stores []string // folders with credstore, the first one is written to

	result  Plan
	theirs  *config.Config  // in the copy
	here    *config.Config  // of this machine
	single  bool            // the highest layer is one file
	without map[string]bool // files of the copy that are left out because of what they define
	ignored map[string]bool // destinations of the copy that stay as they are here
}

func (p *planner) plan() (Plan, error) {
	p.result = Plan{Node: p.Manifest.Node, Missing: p.Manifest.Missing}
	p.without, p.ignored = map[string]bool{}, map[string]bool{}
	if err := p.fit(); err != nil {
		return Plan{}, err
	}
	var err error
	if p.theirs, err = p.config(nil); err != nil {
		return Plan{}, err
	}
	p.here = config.Load(p.existingLayers(), nil)
	p.compareDestinations()
	left, err := p.config(p.without)
	if err != nil {
		return Plan{}, err
	}
	for id := range p.ignored {
		delete(left.Destinations, id)
	}
	p.credentials(left)
	p.secrets(left)
	p.placePassphrase(left)
	p.layerFiles()
	after, err := p.after()
	if err != nil {
		return Plan{}, err
	}
	p.judge(after)
	p.waiting(after)
	p.result.After.Name = after.Node.Name
	p.result.After.UUID, _ = NodeUUID(after.Node) // there may be none in a container, and then there are no copies either
	return p.result, nil
}

// fit says why the copy cannot be laid over these paths.
func (p *planner) fit() error {
	switch {
	case p.Manifest.User && !p.paths.User:
		return errors.New("the copy is of a user's own configuration; restore it as that user, with --user")
	case !p.Manifest.User && p.paths.User:
		return errors.New("the copy is of the system's configuration; restore it as root, without --user")
	}
	p.paths.Config = slices.Clone(p.paths.Config)
	for i, layer := range p.paths.Config {
		var err error
		if p.paths.Config[i], err = filepath.Abs(layer); err != nil {
			return err
		}
	}
	target := p.paths.Config[len(p.paths.Config)-1]
	p.result.target = target
	p.single = p.Copy.single(len(p.Manifest.Layers) - 1)
	info, err := os.Stat(target)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case p.single && (len(p.paths.Config) > 1 || err == nil && info.IsDir()):
		return fmt.Errorf("the copy is of the one file %s; name a file to restore it to with --config", printable(p.top()))
	case !p.single && err == nil && !info.IsDir():
		return fmt.Errorf("the copy is of the folder %s, and %s is a file", printable(p.top()), target)
	}
	if p.result.folder = target; p.single {
		p.result.folder = filepath.Dir(target)
	}
	p.roots = append(p.roots, p.result.folder)
	return nil
}

// top is the highest layer of the copy.
func (p *planner) top() string { return p.Manifest.Layers[len(p.Manifest.Layers)-1] }

// targetOf is where a file of the highest layer of the copy goes.
func (p *planner) targetOf(path string) string {
	if p.single {
		return p.result.target
	}
	return filepath.Join(p.result.target, filepath.Base(path))
}

// existingLayers leaves out a single layer that is to be made: config.Load wants that it is there.
func (p *planner) existingLayers() []string {
	layers := slices.Clone(p.paths.Config)
	if _, err := os.Stat(p.result.target); errors.Is(err, fs.ErrNotExist) {
		return layers[:len(layers)-1]
	}
	return layers
}

func (p *planner) leaveOut(name, reason string, args ...any) {
	p.result.LeftOut = append(p.result.LeftOut, LeftOut{name, fmt.Sprintf(reason, args...)})
}

// isTop tells whether a file of the copy is in its highest layer.
func (p *planner) isTop(path string) bool {
	layer, ok := p.layerOf(path)
	return ok && layer == len(p.Manifest.Layers)-1
}

// compareDestinations finds the destinations that are here already, and leaves out the files that define them in the copy: where
// they are another place, and where they are the same one under another name of a file.
func (p *planner) compareDestinations() {
	defined := map[string][]string{} // by file, what else is in it
	for _, m := range p.theirs.Modules {
		defined[m.File] = append(defined[m.File], "module "+m.ID)
	}
	for _, b := range p.theirs.Backups {
		defined[b.File] = append(defined[b.File], "backup "+b.ID)
	}
	for id, d := range p.theirs.Destinations {
		if !p.clash(id) {
			defined[d.File] = append(defined[d.File], "destination "+id)
		}
	}
	for _, id := range p.theirs.DestinationIDs() {
		if !p.clash(id) {
			continue
		}
		theirs, here := p.theirs.Destinations[id], p.here.Destinations[id]
		p.ignored[id] = true
		if reason := difference(theirs, here); reason != "" {
			p.result.Conflicts = append(p.result.Conflicts, Conflict{ID: id, Place: here.Position, Reason: reason, Backups: backupsTo(p.theirs, id)})
		}
		if !p.isTop(theirs.File) || p.without[theirs.File] {
			continue
		}
		p.without[theirs.File] = true
		reason := fmt.Sprintf("destination %s is defined here already (%s)", id, here.Position)
		if others := defined[theirs.File]; len(others) > 0 {
			slices.Sort(others)
			reason += ", so this is left out, too: " + strings.Join(others, ", ")
		}
		p.leaveOut(theirs.File, "%s", reason)
	}
}

// clash tells whether a destination of the copy cannot be written beside, or over, the one of that ID that is here.
func (p *planner) clash(id string) bool {
	theirs, here := p.theirs.Destinations[id], p.here.Destinations[id]
	if here == nil {
		return false
	}
	top, replaces := p.isTop(theirs.File), filepath.Clean(here.File) == p.targetOf(theirs.File)
	if top && !replaces && filepath.Base(here.File) == filepath.Base(theirs.File) {
		return false // the file of a lower layer, which it replaced there, too
	}
	return difference(theirs, here) != "" || top && !replaces
}

// difference says in which way two destinations are not the same place, "" when they are.
func difference(a, b *config.Destination) string {
	switch {
	case a.Repository != b.Repository:
		return "its repository is another one"
	case a.UUID != "" && b.UUID != "" && a.UUID != b.UUID:
		return "its uuid is another one"
	}
	return ""
}

func backupsTo(cfg *config.Config, destination string) []string {
	return slices.DeleteFunc(cfg.BackupIDs(), func(id string) bool { return cfg.Backups[id].Destination != destination })
}

func backupsOf(cfg *config.Config, module string) []string {
	return slices.DeleteFunc(cfg.BackupIDs(), func(id string) bool { return !slices.Contains(cfg.Backups[id].Modules, module) })
}

// credentials plans the credentials that a configuration names.
func (p *planner) credentials(cfg *config.Config) {
	_, named := secretsOf(cfg)
	for _, cr := range p.Credentials {
		name := "credential " + cr.Name
		encrypted := ""
		for _, store := range p.stores {
			if path := filepath.Join(store, "credstore.encrypted", cr.Name); exists(path) {
				encrypted = path
				break
			}
		}
		switch {
		case !named[cr.Name] || cr.Name == cfg.Node.PassphraseCredential:
			p.leaveOut(name, "no destination that is written needs it")
		case p.paths.User:
			p.leaveOut(name, "credentials are the system's; root can write it")
		case encrypted != "":
			p.leaveOut(name, "there is an encrypted one here already, %s", encrypted)
		default:
			p.add(filepath.Join(p.stores[0], "credstore", cr.Name), cr.Data, secretMode, true, 0o700)
		}
	}
}

// secrets plans the files that a configuration names.
func (p *planner) secrets(cfg *config.Config) {
	named, _ := secretsOf(cfg)
	all, _ := secretsOf(p.theirs)
	for _, f := range p.Files {
		if _, ok := p.layerOf(f.Path); ok {
			continue
		}
		secret, wanted := named[f.Path]
		_, known := all[f.Path]
		switch {
		case known && !wanted:
			p.leaveOut(f.Path, "no destination that is written needs it")
		case wanted && cfg.Node.PassphraseFile != "" && f.Path == filepath.Clean(cfg.Node.PassphraseFile) && p.passphrase != nil: // placePassphrase does
		case !wanted || cfg.Node.PassphraseFile != "" && f.Path == filepath.Clean(cfg.Node.PassphraseFile):
			p.leaveOut(f.Path, "nothing in the configuration names it")
		case !p.allowed(f.Path):
			p.leaveOut(f.Path, "it is not in a folder that may be written to")
		case secret:
			p.add(f.Path, f.Data, secretMode, true, 0o700)
		default:
			p.add(f.Path, f.Data, f.Mode&publicMode|secretMode, false, 0o755)
		}
	}
}

// placePassphrase plans the passphrase where a configuration wants it, so that the next copy is made with it, too.
func (p *planner) placePassphrase(cfg *config.Config) {
	path, name := cfg.Node.PassphraseFile, cfg.Node.PassphraseCredential
	if p.passphrase == nil || path == "" && name == "" {
		return
	}
	if path == "" {
		if p.paths.User {
			p.leaveOut("credential "+name, "credentials are the system's; root can write it")
			return
		}
		for _, store := range p.stores {
			if there := filepath.Join(store, "credstore.encrypted", name); exists(there) {
				p.leaveOut("credential "+name, "there is an encrypted one here already, %s", there)
				return
			}
		}
		path = filepath.Join(p.stores[0], "credstore", name)
	}
	if path = filepath.Clean(path); !p.allowed(path) {
		p.leaveOut(path, "it is not in a folder that may be written to")
		return
	}
	data := append(bytes.Clone(p.passphrase), '\n')
	if old, _, err := readFile(path); err == nil && bytes.Equal(bytes.TrimSuffix(old, []byte("\n")), p.passphrase) {
		data = old // without a line end it says the same
	}
	p.add(path, data, secretMode, true, 0o700)
}

func (p *planner) allowed(path string) bool {
	return slices.ContainsFunc(p.roots, func(root string) bool {
		root = filepath.Clean(root)
		return strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/")
	})
}

// layerFiles plans the files of the highest layer, and tells which of the others are not here.
func (p *planner) layerFiles() {
	for _, f := range p.Files {
		layer, ok := p.layerOf(f.Path)
		switch {
		case !ok || p.without[f.Path]:
		case p.isTop(f.Path):
			p.add(p.targetOf(f.Path), f.Data, f.Mode&publicMode|secretMode, false, 0o755)
		case exists(f.Path):
		case strings.HasPrefix(p.Manifest.Layers[layer], "/run/"):
			p.leaveOut(f.Path, "it is made anew by something else, at boot or later")
		default:
			p.leaveOut(f.Path, "it belongs to a package that is not installed here")
		}
	}
}

// add plans a file. What is no plain file here stays.
func (p *planner) add(path string, data []byte, mode fs.FileMode, secret bool, folder fs.FileMode) {
	f := Planned{Path: path, Mode: mode, State: New, Secret: secret, Data: data, folder: folder}
	if filepath.Dir(path) == p.result.folder {
		f.folder = 0o755 // others must find the configuration beside it
	}
	if slices.ContainsFunc(p.result.Files, func(f Planned) bool { return f.Path == path }) {
		return // a credential that is named as a file, too
	}
	link, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.result.Files = append(p.result.Files, f)
		return
	case err != nil:
		p.leaveOut(path, "it cannot be examined: %v", reason(err))
		return
	}
	old, oldMode, err := readFile(path)
	if target, e := filepath.EvalSymlinks(path); e == nil && target == os.DevNull {
		old, oldMode, err = nil, mode, nil // it masks, as an empty file does
	}
	f.State = Differs
	if err == nil && bytes.Equal(old, data) && (!secret || oldMode&^mode == 0) {
		f.State = Same
	}
	if f.State == Differs && !link.Mode().IsRegular() {
		p.leaveOut(path, "what is there is no regular file, and not the same")
		return
	}
	if f.State == Differs && secret && !bytes.Equal(old, data) {
		f.Kept = unused(path + ".replaced")
	}
	p.result.Files = append(p.result.Files, f)
}

// unused returns a name that no file has yet.
func unused(base string) string {
	name := base
	for n := 2; exists(name); n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	return name
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// after returns the configuration of this machine as it would be.
func (p *planner) after() (*config.Config, error) {
	l, err := newLayers()
	if err != nil {
		return nil, err
	}
	defer l.remove()
	l.layers = slices.Clone(p.paths.Config[:len(p.paths.Config)-1])
	files := map[string][]byte{}
	for _, f := range p.result.Files {
		if filepath.Dir(f.Path) == p.result.folder && isLayerFile(filepath.Base(f.Path)) || f.Path == p.result.target {
			files[filepath.Base(f.Path)] = f.Data
		}
	}
	if err := l.add(p.result.target, p.single, files, !p.single); err != nil {
		return nil, err
	}
	return l.load(), nil
}

// judge takes over the problems of the configuration that this plan is to answer for.
func (p *planner) judge(after *config.Config) {
	written := map[string]bool{}
	for _, f := range p.result.Files {
		written[f.Path] = f.State != Same
	}
	type key struct{ file, key, message string }
	known := map[key]int{}
	for _, q := range p.here.Problems {
		known[key{q.File, q.Key, q.Message}]++
	}
	for _, q := range after.Problems {
		k := key{q.File, q.Key, q.Message}
		if known[k]--; known[k] >= 0 {
			continue
		}
		if path := aboutSecret(after, q); path != "" {
			path = filepath.Clean(path)
			switch {
			case written[path]:
				continue
			case path == filepath.Clean(after.Node.PassphraseFile):
				q.Warning = true
				q.Message += "; put the passphrase there, or there are no more copies"
			}
			for _, m := range p.Manifest.Missing {
				if m.Kind == "file" && m.Name == path {
					q.Message += "; it is not in the copy, either"
				}
			}
		}
		if q.Kind == config.KindBackup && p.waitsFor(after, &q) {
			continue
		}
		p.result.Problems = append(p.result.Problems, q)
	}
}

// waitsFor tells whether a problem of a backup is that a module is elsewhere: that is told as Waiting. Of a destination it makes a warning.
func (p *planner) waitsFor(after *config.Config, q *config.Problem) bool {
	for _, id := range p.elsewhere(after) {
		if strings.HasPrefix(q.Message, "there is no [module."+id+"]") {
			return true
		}
	}
	for id, d := range p.theirs.Destinations {
		if after.Destinations[id] == nil && !p.isTop(d.File) && strings.HasPrefix(q.Message, "there is no [destination."+id+"]") {
			q.Warning = true
			q.Message += "; want " + d.File + ", which is not here yet"
		}
	}
	return false
}

// elsewhere returns the modules of the copy that are not here because a package, or what is made at boot, is to define them.
func (p *planner) elsewhere(after *config.Config) []string {
	return slices.DeleteFunc(p.theirs.ModuleIDs(), func(id string) bool {
		return after.Modules[id] != nil || p.isTop(p.theirs.Modules[id].File)
	})
}

// waiting tells which modules of the copy cannot be saved yet.
func (p *planner) waiting(after *config.Config) {
	for _, id := range p.elsewhere(after) {
		p.result.Waiting = append(p.result.Waiting, Waiting{
			Module: id, Backups: backupsOf(after, id), Reasons: []string{p.theirs.Modules[id].File + " does not exist"},
		})
	}
	for _, id := range p.theirs.ModuleIDs() {
		m := after.Modules[id]
		if m == nil {
			continue
		}
		var reasons []string
		if m.User != "" {
			if _, err := module.LookupUser(m.User, m.Group); err != nil {
				reasons = append(reasons, printable(err.Error()))
			}
		}
		if m.Directory != "" {
			if info, err := os.Stat(m.Directory); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
				reasons = append(reasons, fmt.Sprintf("there is no folder %s", printable(m.Directory)))
			}
		}
		if len(reasons) > 0 {
			p.result.Waiting = append(p.result.Waiting, Waiting{Module: id, Backups: backupsOf(after, id), Reasons: reasons})
		}
	}
	slices.SortFunc(p.result.Waiting, func(a, b Waiting) int { return cmp.Compare(a.Module, b.Module) })
}
