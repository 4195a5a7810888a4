package destination

import (
	"context"
	"slices"
	"strings"

	"sdbackup/internal/config"
)

// Entry is one destination in a list. It has no secrets.
type Entry struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Provider   string   `json:"provider"`
	Repository string   `json:"repository"`
	UUID       string   `json:"uuid,omitempty"`
	Place      string   `json:"place"` // file and line
	Own        bool     `json:"own"`   // made by this command, so that it can be altered
	Backups    []string `json:"backups"`
}

// List returns all destinations, those that somebody wrote by hand as well, and what is wrong with the configuration.
func (s *Store) List() ([]Entry, []config.Problem) {
	cfg := s.load()
	entries := []Entry{}
	for _, id := range ids(cfg) {
		entries = append(entries, s.entry(cfg, cfg.Destinations[id]))
	}
	return entries, cfg.Errors()
}

func (s *Store) entry(cfg *config.Config, d *config.Destination) Entry {
	provider, own := s.providerOf(d)
	backups := usedBy(cfg, d.ID)
	if backups == nil {
		backups = []string{}
	}
	return Entry{
		ID: d.ID, Name: d.Name, Provider: provider, Repository: publicPlace(d), UUID: d.UUID,
		Place: d.Position.String(), Own: own, Backups: backups,
	}
}

// publicPlace is where a destination is, without a secret.
func publicPlace(d *config.Destination) string {
	if d.OnlyBucket() {
		return d.Bucket.String("")
	}
	return publicRepository(d.Repository)
}

// publicRepository is a repository without the password that somebody put into it, which is a mistake that the configuration reports.
func publicRepository(repository string) string {
	if userPassword.MatchString(repository) || inlineSecret.MatchString(repository) {
		return masked
	}
	if rest, ok := strings.CutPrefix(repository, "sftp:"); ok && !strings.HasPrefix(rest, "//") {
		if at := strings.LastIndexByte(rest, '@'); at >= 0 && strings.Contains(rest[:at], ":") {
			return masked
		}
	}
	return repository
}

// ids returns the IDs of all destinations, sorted.
func ids(cfg *config.Config) []string {
	ids := make([]string, 0, len(cfg.Destinations))
	for id := range cfg.Destinations {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// select returns the destinations of these IDs; all without any.
func choose(cfg *config.Config, wanted []string) ([]*config.Destination, error) {
	if len(wanted) == 0 {
		wanted = ids(cfg)
	}
	var chosen []*config.Destination
	for _, id := range wanted {
		d, err := find(cfg, id)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(chosen, d) {
			chosen = append(chosen, d)
		}
	}
	return chosen, nil
}

// Detail is all there is to say of one destination.
type Detail struct {
	Entry
	PasswordFile       string            `json:"password_file,omitempty"`
	PasswordCredential string            `json:"password_credential,omitempty"`
	RcloneConfig       string            `json:"rclone_config,omitempty"`
	RcloneCredential   string            `json:"rclone_credential,omitempty"`
	EnvironmentFile    string            `json:"environment_file,omitempty"`
	Gateway            bool              `json:"gateway"`
	MaxSize            int64             `json:"max_size,omitempty"`
	KeepDeleted        float64           `json:"keep_deleted_seconds,omitempty"`
	Options            map[string]string `json:"options,omitempty"`    // of rclone, without secrets
	Unreadable         string            `json:"unreadable,omitempty"` // why options are missing
	Secrets            map[string]string `json:"secrets,omitempty"`    // only when asked for
}

// Show returns everything about a destination, its secrets only when asked for.
func (s *Store) Show(ctx context.Context, id string, secrets bool) (Detail, error) {
	cfg := s.load()
	d, err := find(cfg, id)
	if err != nil {
		return Detail{}, err
	}
	detail := Detail{
		Entry: s.entry(cfg, d), PasswordFile: d.PasswordFile, PasswordCredential: d.PasswordCredential, RcloneConfig: d.RcloneConfig,
		RcloneCredential: d.RcloneCredential, EnvironmentFile: d.EnvironmentFile, Gateway: d.Gateway, MaxSize: d.MaxSize,
		KeepDeleted: d.KeepDeleted.Seconds(),
	}
	st, err := s.read(ctx, d)
	if err != nil {
		if secrets {
			return Detail{}, err
		}
		detail.Unreadable = err.Error()
		return detail, nil
	}
	for _, o := range st.publicOptions() {
		if detail.Options == nil {
			detail.Options = map[string]string{}
		}
		detail.Options[o.Key] = o.Value
	}
	if secrets {
		detail.Secrets = st.secretTexts()
	}
	return detail, nil
}

// secretTexts returns the secrets by their names, as a person types them in.
func (d *stored) secretTexts() map[string]string {
	texts := map[string]string{"password": string(d.password)}
	if d.remote != nil {
		for _, o := range d.remote.Options {
			if !isSecret(o) {
				continue
			}
			texts["rclone."+o.Key] = o.Value
			if plain, err := reveal(o.Value); err == nil && strings.Contains(strings.ToLower(o.Key), "pass") {
				texts["rclone."+o.Key] = string(plain)
			}
		}
	}
	for line := range strings.Lines(d.environment) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") && !strings.HasPrefix(name, ";") {
			texts[name] = getVariable(d.environment, name)
		}
	}
	return texts
}
