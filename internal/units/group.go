package units

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// draws are the properties of a unit that name what stops with it, or starts it: org.freedesktop.systemd1(5).
var draws = []string{"RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "TriggeredBy"}

// Running returns which of the units run, and which are being stopped, together with those units that would be stopped with them, or would
// start them again, and the services of a socket's connections.
func (c *Conn) Running(ctx context.Context, names []string) (running, ending []string, err error) {
	seen := map[string]bool{}
	for queue := slices.Clone(names); len(queue) > 0; queue = queue[1:] {
		name := queue[0]
		if seen[name] {
			continue
		}
		seen[name] = true
		v, err := c.property(ctx, unitPath(name), unitIface, "ActiveState")
		if err != nil {
			return nil, nil, fmt.Errorf("ask for the state of %s: %w", name, err)
		}
		switch state, _ := v.Value().(string); {
		case state == "deactivating":
			ending = append(ending, name)
		case isActive(state):
			running = append(running, name)
		}
		for _, property := range draws {
			v, err := c.property(ctx, unitPath(name), unitIface, property)
			if err != nil {
				return nil, nil, fmt.Errorf("ask for %s of %s: %w", property, name, err)
			}
			more, _ := v.Value().([]string)
			queue = append(queue, more...)
		}
		if accepts, err := c.accepts(ctx, name); err != nil {
			return nil, nil, err
		} else if accepts {
			v, err := c.property(ctx, unitPath(name), unitIface, "Triggers")
			if err != nil {
				return nil, nil, fmt.Errorf("ask for the connections of %s: %w", name, err)
			}
			connections, _ := v.Value().([]string)
			queue = append(queue, connections...)
		}
	}
	return running, ending, nil
}

// accepts says whether a unit is a socket that has a service of its own for each connection: systemd.socket(5), Accept=.
func (c *Conn) accepts(ctx context.Context, name string) (bool, error) {
	if !strings.HasSuffix(name, ".socket") {
		return false, nil
	}
	v, err := c.property(ctx, unitPath(name), socketIface, "Accept")
	if err != nil {
		return false, fmt.Errorf("ask for Accept of %s: %w", name, err)
	}
	accepts, _ := v.Value().(bool)
	return accepts, nil
}

// StopAll stops units and waits until they are stopped.
func (c *Conn) StopAll(ctx context.Context, names []string) error {
	return c.all(ctx, names, func(name string) error { return c.stop(ctx, forever, name) })
}

// StartAll starts units and waits until they are started. The service of a connection is left out: only its socket can start it.
func (c *Conn) StartAll(ctx context.Context, names []string) error {
	return c.all(ctx, names, func(name string) error {
		if template, _, ok := strings.Cut(name, "@"); ok && strings.HasSuffix(name, serviceSuffix) {
			if connection, err := c.accepts(ctx, template+".socket"); err != nil || connection {
				return err
			}
		}
		return c.Start(ctx, name)
	})
}

func (c *Conn) all(ctx context.Context, names []string, f func(string) error) error {
	errs := make([]error, len(names))
	each(ctx, len(names), func(i int) {
		if err := f(names[i]); err != nil {
			errs[i] = fmt.Errorf("%s: %w", names[i], err)
		}
	})
	return errors.Join(append(errs, ctx.Err())...)
}

// RestoreServiceName is the name of the service that puts restored data of a module in its place.
func RestoreServiceName(module string) string { return "restore-backup-" + module + serviceSuffix }
