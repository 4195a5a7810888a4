package destination

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

// ErrNoRclone says that rclone is not installed.
var ErrNoRclone = errors.New("rclone is not installed")

var rcloneVersion = regexp.MustCompile(`^rclone v(\d+)\.(\d+)`)

// RcloneVersion asks rclone which version it is, as in 1.60.
func RcloneVersion(ctx context.Context) (major, minor int, err error) {
	out, err := rcloneCommand(ctx, os.DevNull, "version").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return 0, 0, ErrNoRclone
	}
	if err != nil {
		return 0, 0, fmt.Errorf("ask rclone for its version: %w", err)
	}
	m := rcloneVersion.FindSubmatch(out)
	if m == nil {
		return 0, 0, errors.New("rclone says no version")
	}
	major, _ = strconv.Atoi(string(m[1]))
	minor, _ = strconv.Atoi(string(m[2]))
	return major, minor, nil
}
