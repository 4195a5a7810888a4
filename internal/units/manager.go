package units

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// forever bounds what only the context bounds.
const forever = 1 << 62 * time.Nanosecond

// Reload has the manager read all unit files anew, as "systemctl daemon-reload" does.
func (c *Conn) Reload(ctx context.Context) error { return c.manager(ctx, "Reload", nil) }

// Enable has units started at every boot, or every login of the user, as "systemctl enable" does.
func (c *Conn) Enable(ctx context.Context, names []string) error {
	const runtime, force = false, false
	var hasInstall bool
	var changes [][]any
	if err := c.manager(ctx, "EnableUnitFiles", []any{names, runtime, force}, &hasInstall, &changes); err != nil {
		return err
	}
	return c.Reload(ctx)
}

// Start starts a unit, and waits until it is started.
func (c *Conn) Start(ctx context.Context, name string) error {
	return c.do(ctx, forever, "StartUnit", name, "replace")
}

// OwnService returns the service of a backup or another job that this process is part of, "" when it is part of none: a person has started it.
func (c *Conn) OwnService(ctx context.Context) string {
	if unit, err := c.ownUnit(ctx); err == nil && isService(unit) {
		return unit
	}
	return ""
}

// ownUnit returns the name of the unit that this process is part of.
func (c *Conn) ownUnit(ctx context.Context) (string, error) {
	var path dbus.ObjectPath
	if err := c.manager(ctx, "GetUnitByPID", []any{uint32(os.Getpid())}, &path); err != nil {
		return "", fmt.Errorf("find the unit of this process: %w", err)
	}
	v, err := c.property(ctx, path, unitIface, "Id")
	if err != nil {
		return "", fmt.Errorf("find the unit of this process: %w", err)
	}
	id, _ := v.Value().(string)
	return id, nil
}

// ResetFailed takes the service of a backup out of the state "failed". That it is not loaded is no error.
func (c *Conn) ResetFailed(ctx context.Context, backup string) error {
	return c.resetFailed(ctx, ServiceName(backup))
}

// ServiceActive tells whether the service of a backup is running, or about to.
func (c *Conn) ServiceActive(ctx context.Context, backup string) (bool, error) {
	list, err := c.list(ctx, ServiceName(backup))
	if err != nil {
		return false, err
	}
	return len(list) > 0 && isActive(list[0].ActiveState), nil
}

// StopModules stops the services of a backup's modules that a run left behind, and waits for their end.
func (c *Conn) StopModules(ctx context.Context, backup string) error {
	list, err := c.list(ctx, modulesPrefix(backup)+"*"+serviceSuffix)
	if err != nil {
		return fmt.Errorf("list the services of modules: %w", err)
	}
	errs := make([]error, len(list))
	each(ctx, len(list), func(i int) {
		if err := c.clear(ctx, list[i].Name); err != nil {
			errs[i] = fmt.Errorf("stop %s: %w", list[i].Name, err)
		}
	})
	return errors.Join(append(errs, ctx.Err())...)
}

// clear stops a unit however long that takes, and leaves nothing of it loaded.
func (c *Conn) clear(ctx context.Context, unit string) error {
	if err := c.stop(ctx, forever, unit); err != nil {
		return err
	}
	return c.resetFailed(ctx, unit)
}

// list lists the loaded units whose names match any of the patterns, glob(7) without escapes.
func (c *Conn) list(ctx context.Context, patterns ...string) ([]sd.UnitStatus, error) {
	var all []sd.UnitStatus
	if err := c.manager(ctx, "ListUnitsByPatterns", []any{[]string{}, patterns}, &all); err != nil {
		return nil, err
	}
	loaded := all[:0]
	for _, u := range all {
		if u.LoadState != "not-found" { // a name that other units mention
			loaded = append(loaded, u)
		}
	}
	return loaded, nil
}

// isActive tells of an ActiveState whether processes of the unit may run.
func isActive(state string) bool { return state != "inactive" && state != "failed" }
