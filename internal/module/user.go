package module

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
)

// User is whom a module runs as.
type User struct {
	Name     string
	Home     string
	UID, GID uint32
	Groups   []uint32 // supplementary
}

// LookupUser finds a user, and its group where another one than its own is wanted; "" is the caller. Users that only NSS
// knows, nsswitch.conf(5), are asked for by getent(1) and id(1), for a static binary cannot.
func LookupUser(name, group string) (User, error) {
	if name == "" {
		return User{Name: os.Getenv("USER"), Home: os.Getenv("HOME"), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}, nil
	}
	var u User
	found, err := user.Lookup(name)
	if err != nil {
		if found, err = getent(name); err != nil {
			return u, fmt.Errorf("there is no user %s: %w", name, err)
		}
	}
	u.Name, u.Home = found.Username, found.HomeDir
	ids := []string{found.Uid, found.Gid}
	groups, err := found.GroupIds()
	if err != nil {
		groups = nil
		if out, err := exec.Command("id", "-G", "--", name).Output(); err == nil {
			groups = strings.Fields(string(out))
		}
	}
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return u, fmt.Errorf("there is no group %s", group)
		}
		ids[1] = g.Gid
	}
	var numbers []uint32
	for _, s := range append(ids, groups...) {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return u, fmt.Errorf("user %s has the id %q", name, s)
		}
		numbers = append(numbers, uint32(n))
	}
	u.UID, u.GID, u.Groups = numbers[0], numbers[1], numbers[2:]
	return u, nil
}

func getent(name string) (*user.User, error) {
	out, err := exec.Command("getent", "passwd", "--", name).Output()
	if err != nil {
		return nil, errors.New("neither in /etc/passwd nor known to getent")
	}
	fields := strings.Split(strings.TrimSpace(string(out)), ":")
	if len(fields) != 7 {
		return nil, errors.New("getent printed no user")
	}
	return &user.User{Username: fields[0], Uid: fields[2], Gid: fields[3], HomeDir: fields[5]}, nil
}
