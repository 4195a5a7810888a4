package doctor

import (
	"context"
	"errors"
	"strings"

	"sdbackup/internal/destination"
	"sdbackup/internal/restic"
	"sdbackup/internal/units"
)

// The oldest versions that are tested.
const (
	systemdWanted              = 252
	resticWanted               = 14 // 0.14
	resticUnix                 = 17 // 0.17 reaches the gateway by a unix socket
	rcloneMajor, rcloneWanted  = 1, 60
	resticRemedy, rcloneRemedy = "install restic 0.14 or newer", "install rclone 1.60 or newer"
	noManagerRemedy            = `start systemd, or run backups with "run-backup --no-units"`
	userManagerRemedy          = "log in, or let the user's manager linger: loginctl enable-linger"
)

func (d *Doctor) managerAway(subject string, err error) []Finding {
	remedy := noManagerRemedy
	if d.Paths.User {
		remedy = userManagerRemedy
	}
	return []Finding{problem(subject, remedy, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))}
}

func (d *Doctor) systemd(ctx context.Context) []Finding {
	conn, err := d.dial(ctx)
	if err != nil {
		return d.managerAway("systemd", err)
	}
	defer conn.Close()
	version, err := conn.Version(ctx)
	switch {
	case err != nil:
		return []Finding{problem("systemd", "", "%v", err)}
	case version < systemdWanted:
		return []Finding{problem("systemd", "upgrade the system", "version %d; want %d or newer", version, systemdWanted)}
	case version == systemdWanted:
		return []Finding{ok("systemd", "version %d, which does not tell how much memory a module used", version)}
	}
	return []Finding{ok("systemd", "version %d", version)}
}

func (d *Doctor) restic(ctx context.Context) []Finding {
	version, err := restic.Repository{Log: d.Log}.Version(ctx)
	switch {
	case errors.Is(err, restic.ErrMissingProgram):
		return []Finding{problem("restic", resticRemedy, "not installed")}
	case err != nil:
		return []Finding{problem("restic", "", "%v", err)}
	case !version.AtLeast(0, resticWanted):
		return []Finding{problem("restic", resticRemedy, "version %d.%d; want 0.%d or newer", version.Major, version.Minor, resticWanted)}
	case version.AtLeast(0, resticUnix):
		return []Finding{ok("restic", "version %d.%d", version.Major, version.Minor)}
	}
	for id := range d.inUse() {
		if dest := d.Config.Destinations[id]; dest != nil && dest.Gateway && strings.HasPrefix(d.Config.Gateway.URL, "unix:") {
			return []Finding{problem("restic", "upgrade it, or give [gateway] a url of http",
				"version %d.%d, which does not reach the gateway at %s; want 0.%d", version.Major, version.Minor, d.Config.Gateway.URL, resticUnix)}
		}
	}
	return []Finding{ok("restic", "version %d.%d, which does not say the size of a snapshot and cannot use a unix socket", version.Major, version.Minor)}
}

func (d *Doctor) rclone(ctx context.Context) []Finding {
	needed := ""
	for _, id := range d.Config.DestinationIDs() {
		if strings.HasPrefix(d.Config.Destinations[id].Repository, "rclone:") && needed == "" {
			needed = id
		}
	}
	major, minor, err := destination.RcloneVersion(ctx)
	switch {
	case errors.Is(err, destination.ErrNoRclone) && needed == "":
		return []Finding{ok("rclone", "not installed, and no destination needs it")}
	case errors.Is(err, destination.ErrNoRclone):
		return []Finding{problem("rclone", rcloneRemedy, "not installed, and destination %s needs it", needed)}
	case err != nil && needed == "":
		return []Finding{warning("rclone", "", "%v", err)}
	case err != nil:
		return []Finding{problem("rclone", "", "%v", err)}
	case major < rcloneMajor || major == rcloneMajor && minor < rcloneWanted:
		if needed == "" {
			return []Finding{ok("rclone", "version %d.%d, too old to be used, and no destination needs it", major, minor)}
		}
		return []Finding{problem("rclone", rcloneRemedy, "version %d.%d; destination %s wants %d.%d or newer", major, minor, needed, rcloneMajor, rcloneWanted)}
	}
	return []Finding{ok("rclone", "version %d.%d", major, minor)}
}

// unitFiles looks whether the units are there that timers start, and those that are to be always on.
func (d *Doctor) unitFiles(ctx context.Context) []Finding {
	const subject = "units"
	conn, err := d.dial(ctx)
	if err != nil {
		return []Finding{warning(subject, "", "not looked at: there is no service manager")}
	}
	defer conn.Close()
	const remedy = `"schedule-backup install-units" writes and enables them`
	var out []Finding
	for _, name := range []string{"backup@.service", "backup-timers.service", "backup-timers.path"} {
		state, err := conn.FileState(ctx, name)
		switch {
		case err != nil:
			return []Finding{problem(subject, "", "%s: %v", name, err)}
		case state == "":
			out = append(out, problem(subject, remedy, "%s is not installed", name))
		case state == "masked" || state == "masked-runtime":
			out = append(out, problem(subject, "systemctl "+d.userFlag()+"unmask "+name, "%s is masked", name))
		case name == "backup-timers.service" && state == "disabled":
			out = append(out, problem(subject, "systemctl "+d.userFlag()+"enable --now "+name, "%s is disabled: no timers after the next boot", name))
		}
	}
	if len(out) > 0 {
		return out
	}
	if state, err := conn.ActiveState(ctx, "backup-timers.path"); err == nil && state != "active" {
		out = append(out, warning(subject, "systemctl "+d.userFlag()+"start backup-timers.path",
			"backup-timers.path is %s: changes of the configuration go unnoticed", state))
	}
	if d.servedByGateway() {
		if state, err := conn.ActiveState(ctx, "backup-gateway.socket"); err == nil && state != "active" {
			out = append(out, problem(subject, "systemctl "+d.userFlag()+"enable --now backup-gateway.socket",
				"backup-gateway.socket is %s, and a destination is reached through it", state))
		}
	}
	if len(out) == 0 {
		out = append(out, ok(subject, "installed"))
	}
	return out
}

func (d *Doctor) userFlag() string {
	if d.Paths.User {
		return "--user "
	}
	return ""
}

func (d *Doctor) servedByGateway() bool {
	for id := range d.inUse() {
		if dest := d.Config.Destinations[id]; dest != nil && dest.Gateway {
			return true
		}
	}
	return false
}

func (d *Doctor) clock(ctx context.Context) []Finding {
	synchronized, err := units.ClockSynchronized(ctx)
	switch {
	case err != nil:
		return []Finding{warning("clock", "", "not looked at: %v", err)}
	case !synchronized:
		return []Finding{warning("clock", "timedatectl set-ntp true", "not synchronised: backups run, and are kept, by a time that may be wrong")}
	}
	return []Finding{ok("clock", "synchronised")}
}
