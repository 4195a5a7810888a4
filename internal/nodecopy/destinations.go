package nodecopy

import (
	"path/filepath"
	"slices"

	"sdbackup/internal/config"
)

// FullDestination is a destination of a copy with its secrets: what is needed to make it on another node.
type FullDestination struct {
	config.Destination        // its paths are those of the node of the copy
	Defined            string // the file that defines it: its first line tells which provider backup-destination made it for

	Password    Content // as in its file; restic takes blanks and line ends off
	Rclone      Content // an rclone.conf, which may hold other remotes too
	Environment Content
	Missing     []Missing // of its secrets, those that are not in the copy
}

// Destinations returns the destinations of a copy that have no mistakes but missing secrets, sorted by ID, and the mistakes of the others.
func (c Copy) Destinations() ([]FullDestination, []config.Problem, error) {
	cfg, err := c.config(nil)
	if err != nil {
		return nil, nil, err
	}
	var all []FullDestination
	var problems []config.Problem
	for _, id := range cfg.DestinationIDs() {
		d := FullDestination{Destination: *cfg.Destinations[id]}
		wrong := slices.DeleteFunc(cfg.ErrorsOf(config.KindDestination, id), func(p config.Problem) bool { return aboutSecret(cfg, p) != "" })
		if len(wrong) > 0 {
			problems = append(problems, wrong...)
			continue
		}
		if f, ok := c.file(d.File); ok {
			d.Defined = string(f.Data)
		}
		for _, s := range []struct {
			path, credential string
			data             *Content
		}{
			{d.PasswordFile, d.PasswordCredential, &d.Password},
			{d.RcloneConfig, d.RcloneCredential, &d.Rclone},
			{d.EnvironmentFile, "", &d.Environment},
		} {
			var ok bool
			kind, name := "file", filepath.Clean(s.path)
			switch {
			case s.path != "":
				var f File
				f, ok = c.file(name)
				*s.data = f.Data
			case s.credential != "":
				kind, name = "credential", s.credential
				*s.data, ok = c.credential(name)
			default:
				continue
			}
			if !ok {
				d.Missing = append(d.Missing, c.missing(kind, name))
			}
		}
		all = append(all, d)
	}
	return all, problems, nil
}

// aboutSecret returns the file that a problem is about when it is one that the configuration names: here the files of another
// node are not to be judged. "" otherwise.
func aboutSecret(cfg *config.Config, p config.Problem) string {
	switch p.Kind {
	case config.KindNode:
		if p.Key == "node.passphrase-file" {
			return cfg.Node.PassphraseFile
		}
	case config.KindDestination:
		if d := cfg.Destinations[p.ID]; d != nil {
			return map[string]string{
				"destination." + p.ID + ".password-file":    d.PasswordFile,
				"destination." + p.ID + ".environment-file": d.EnvironmentFile,
				"destination." + p.ID + ".rclone-config":    d.RcloneConfig,
			}[p.Key]
		}
	}
	return ""
}

// file finds a file by its path.
func (c Copy) file(path string) (File, bool) {
	i := slices.IndexFunc(c.Files, func(f File) bool { return f.Path == path })
	if i < 0 {
		return File{}, false
	}
	return c.Files[i], true
}

func (c Copy) credential(name string) (Content, bool) {
	i := slices.IndexFunc(c.Credentials, func(cr Credential) bool { return cr.Name == name })
	if i < 0 {
		return nil, false
	}
	return c.Credentials[i].Data, true
}

// missing says why something is not in the copy.
func (c Copy) missing(kind, name string) Missing {
	for _, m := range c.Manifest.Missing {
		if m.Kind == kind && m.Name == printable(name) {
			return m
		}
	}
	return Missing{kind, name, "nobody knows why"}
}
