package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sdbackup/internal/atomicfile"
	"sdbackup/internal/config"
	"sdbackup/internal/module"
)

// checkAs looks at the module that the restored one is to be.
func (r *Restorer) checkAs(p *Plan) error {
	as := p.As
	if !config.ValidID(as) {
		return usage("letters, digits, _, . and -, and no more than 64 of them", "%q cannot be the ID of a module", as)
	}
	if p.Module != nil && p.Module.ID == as {
		return usage("leave --as out", "module %s is the one that was saved", as)
	}
	p.as, p.into = as, r.Config.Modules[as]
	if m := p.into; m != nil {
		if err := r.mistakes(config.KindModule, as); err != nil {
			return err
		}
		if m.Type != p.Type {
			return usage("name a module of that type, or one that is not there yet", "module %s is of type %s, and what was saved of type %s", as, m.Type, p.Type)
		}
		if m.UUID == p.UUID {
			return usage("give it a new one, as uuidgen prints it", "module %s has the UUID of the one that was saved", as)
		}
		return nil
	}
	if p.Request.InPlace {
		return usage("restore it into a new folder, which makes the module", "there is no module %s in the configuration, so it has no place", as)
	}
	for _, problem := range r.Config.Errors() {
		if problem.Kind == config.KindFile {
			return usage("correct it first", "nobody knows whether there is a module %s: %s", as, problem)
		}
	}
	top := r.Paths.Config[len(r.Paths.Config)-1]
	if info, err := os.Stat(top); err == nil && !info.IsDir() {
		return usage("let --config name a folder", "there is no folder for the configuration of module %s: --config names a file", as)
	}
	p.added = filepath.Join(top, as+".toml")
	if _, err := os.Lstat(p.added); err == nil {
		p.Problems = append(p.Problems, Problem{Text: fmt.Sprintf("%s is there, and has no module %s", p.added, as), Remedy: "take another name, or write the module into it"})
	}
	return nil
}

// addModule writes the configuration of a new module, and never over a file.
func (r *Restorer) addModule(p *Plan, result *Result) error {
	saved := p.Point.saved()
	if len(saved) == 0 {
		saved = []string{dumpFolder}
	}
	text := &strings.Builder{}
	line := func(key string, value string) {
		if value != "" {
			fmt.Fprintf(text, "%s = %s\n", key, quoteTOML(value))
		}
	}
	name := p.As
	if strings.Contains(name, ".") {
		name = quoteTOML(name)
	}
	fmt.Fprintf(text, "# Restored from %s of %s. No backup has it yet.\n[module.%s]\n", p.Name(), p.Point.Time.UTC().Format("2006-01-02 15:04:05 UTC"), name)
	if p.InBucket() {
		line("engine", config.EngineFiles)
		if p.Module != nil {
			fmt.Fprintf(text, "pipeline = [%s]\n", strings.Join(quoted(p.Module.Pipeline), ", "))
		}
	}
	line("type", p.Type)
	line("uuid", config.NewUUID())
	line("ui-name", p.As)
	if p.Module != nil {
		line("user", p.Module.User)
		line("group", p.Module.Group)
	}
	line("directory", p.Target)
	var include []string
	for _, s := range saved {
		include = append(include, strings.TrimPrefix(s, "/"))
	}
	fmt.Fprintf(text, "include = [%s]\n", strings.Join(quoted(include), ", "))
	if m := p.newOwner(); m != nil { // whose user could not enter it
		u, err := module.LookupUser(m.User, m.Group)
		if err == nil {
			err = os.Lchown(p.Target, int(u.UID), int(u.GID))
		}
		if err != nil {
			return fmt.Errorf("everything is restored, but its folder was not given to the module's user: %w", err)
		}
	}
	if err := writeNew(p.added, []byte(text.String())); err != nil {
		return fmt.Errorf("everything is restored, but module %s was not made: %w", p.As, err)
	}
	result.Added = p.added
	return nil
}

func quoted(texts []string) []string {
	var all []string
	for _, s := range texts {
		all = append(all, quoteTOML(s))
	}
	return all
}

// quoteTOML writes a basic string of TOML. What is no UTF-8 cannot be written, and is replaced.
func quoteTOML(s string) string {
	s = strings.ToValidUTF8(s, "\ufffd")
	text := &strings.Builder{}
	text.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			text.WriteString(`\` + string(c))
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(text, `\u%04X`, c)
		default:
			text.WriteRune(c)
		}
	}
	return text.String() + `"`
}

// writeNew makes a file that is there wholly or not at all, and never replaces one.
func writeNew(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := atomicfile.MakeDir(dir, 0o755); err != nil {
		return err
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &fs.PathError{Op: "make a file in", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync())
	if err == nil {
		err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return atomicfile.SyncDir(dir)
}
