package module

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The plan and the progress of an attempt travel over one socket, module-backup's standard input: first the plan, a line of
// JSON; then progress the other way. Its end tells module-backup that the run is gone.

const (
	maxPlanBytes     = 64 << 20
	progressInterval = 250 * time.Millisecond
)

// Socketpair returns the two ends of such a socket: the run's, and the one for module-backup.
func Socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for the module: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "run"), os.NewFile(uintptr(fds[1]), "module"), nil
}

// Converse sends the plan and passes progress on until the other end is closed.
func Converse(ours *os.File, plan Plan, progress func(Progress)) error {
	data, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	if _, err := ours.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("send the plan: %w", err)
	}
	lines := bufio.NewScanner(ours)
	for lines.Scan() {
		var p Progress
		if json.Unmarshal(lines.Bytes(), &p) == nil && progress != nil {
			progress(p)
		}
	}
	return nil
}

// errRunGone is why an attempt stops whose run has died.
var errRunGone = errors.New("the run that it belongs to is gone")

// Receive reads the plan from the socket. The context that it returns ends when the other end of the socket is closed; report
// sends progress, now and then.
func Receive(ctx context.Context, socket *os.File) (_ context.Context, plan Plan, report func(Progress), err error) {
	conn, err := net.FileConn(socket)
	if err != nil {
		return ctx, plan, nil, errors.New("--plan wants a socket on standard input: it is run-backup's")
	}
	in := bufio.NewReader(conn)
	line, err := in.ReadBytes('\n')
	if err != nil || len(line) > maxPlanBytes {
		return ctx, plan, nil, fmt.Errorf("receive the plan: %w", err)
	}
	if err := json.Unmarshal(line, &plan); err != nil {
		return ctx, plan, nil, fmt.Errorf("read the plan: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel(errRunGone)
	}()
	var mu sync.Mutex
	var last time.Time
	var phase string
	return ctx, plan, func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Phase == phase && time.Since(last) < progressInterval {
			return
		}
		phase, last = p.Phase, time.Now()
		data, _ := json.Marshal(p)
		if conn.SetWriteDeadline(time.Now().Add(time.Second)) == nil { // progress holds up no backup
			_, _ = conn.Write(append(data, '\n'))
		}
	}, nil
}
