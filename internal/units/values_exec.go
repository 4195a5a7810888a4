package units

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Values of several parts, which D-Bus has as structures.

// parseDevices takes "DEVICE VALUE", or a list of those.
func parseDevices(parse func(any) (any, error)) func(any) (any, error) {
	type deviceValue struct {
		Device string
		Value  uint64
	}
	return func(value any) (any, error) {
		lines, err := lines(value)
		if err != nil {
			return nil, err
		}
		list := []deviceValue{}
		for _, line := range lines {
			fields := strings.Fields(line)
			if len(fields) != 2 || !filepath.IsAbs(fields[0]) {
				return nil, fmt.Errorf("%q: want the path of a device or a file on it, and a value, as in \"/dev/sda 10M\"", line)
			}
			v, err := parse(fields[1])
			if err != nil {
				return nil, err
			}
			list = append(list, deviceValue{fields[0], v.(uint64)})
		}
		return list, nil
	}
}

// lines takes one string, or a list of strings, each with blanks in it.
func lines(value any) ([]string, error) {
	if s, ok := value.(string); ok {
		value = []any{s}
	}
	return parseWords(value)
}

// parseDeviceAllow takes "DEVICE rwm", or a list of those.
func parseDeviceAllow(value any) (any, error) {
	type device struct{ Path, Access string }
	lines, err := lines(value)
	if err != nil {
		return nil, err
	}
	list := []device{}
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) == 1 {
			fields = append(fields, "rwm")
		}
		if len(fields) != 2 || strings.Trim(fields[1], "rwm") != "" ||
			!strings.HasPrefix(fields[0], "/dev/") && !strings.HasPrefix(fields[0], "char-") && !strings.HasPrefix(fields[0], "block-") {
			return nil, fmt.Errorf("%q: want a device and what is allowed, as in \"/dev/sda r\"", line)
		}
		list = append(list, device{fields[0], fields[1]})
	}
	return list, nil
}

// parseBinds takes SOURCE, SOURCE:DESTINATION or SOURCE:DESTINATION:OPTION, or a list of those.
func parseBinds(value any) (any, error) {
	type bind struct {
		Source, Destination string
		IgnoreMissing       bool
		Flags               uint64
	}
	words, err := parseWords(value)
	if err != nil {
		return nil, err
	}
	list := []bind{}
	for _, word := range words {
		source, ignore := strings.CutPrefix(word, "-")
		parts := strings.Split(source, ":")
		b := bind{Source: parts[0], Destination: parts[0], IgnoreMissing: ignore, Flags: unix.MS_REC}
		if len(parts) > 1 {
			b.Destination = parts[1]
		}
		if len(parts) > 2 {
			switch parts[2] {
			case "rbind":
			case "norbind":
				b.Flags = 0
			default:
				return nil, fmt.Errorf("%q: want the option rbind or norbind", word)
			}
		}
		if len(parts) > 3 || !filepath.IsAbs(b.Source) || !filepath.IsAbs(b.Destination) {
			return nil, fmt.Errorf("%q: want absolute paths, as in \"/srv/data:/data\"", word)
		}
		list = append(list, b)
	}
	return list, nil
}

// parseTemporary takes PATH or PATH:OPTIONS, or a list of those.
func parseTemporary(value any) (any, error) {
	type temporary struct{ Path, Options string }
	words, err := parseWords(value)
	if err != nil {
		return nil, err
	}
	list := []temporary{}
	for _, word := range words {
		path, options, _ := strings.Cut(word, ":")
		if !filepath.IsAbs(path) {
			return nil, fmt.Errorf("%q: want an absolute path", word)
		}
		list = append(list, temporary{path, options})
	}
	return list, nil
}

// parseFilter takes names to allow, or with "~" before the first, to deny.
func parseFilter(value any) (any, error) {
	type filter struct {
		Allow bool
		Names []string
	}
	words, err := parseWords(value)
	if err != nil {
		return nil, err
	}
	f := filter{Allow: true, Names: []string{}}
	for i, word := range words {
		if rest, deny := strings.CutPrefix(word, "~"); deny {
			if i > 0 {
				return nil, fmt.Errorf("%q: want \"~\" before the first entry only", word)
			}
			f.Allow, word = false, rest
		}
		if word != "" {
			f.Names = append(f.Names, word)
		}
	}
	if len(words) == 1 && words[0] == "none" { // RestrictAddressFamilies=none
		f.Names = []string{}
	}
	return f, nil
}

// namespaces are the kinds that RestrictNamespaces= knows, by their flags of clone(2).
var namespaces = map[string]uint64{
	"cgroup": unix.CLONE_NEWCGROUP, "ipc": unix.CLONE_NEWIPC, "net": unix.CLONE_NEWNET, "mnt": unix.CLONE_NEWNS,
	"pid": unix.CLONE_NEWPID, "user": unix.CLONE_NEWUSER, "uts": unix.CLONE_NEWUTS,
}

// parseNamespaces takes a boolean, or the kinds to allow, or with "~" before the first, to deny: the allowed ones on D-Bus.
func parseNamespaces(value any) (any, error) {
	var all uint64
	for _, flag := range namespaces {
		all |= flag
	}
	if restrict, err := parseBool(value); err == nil {
		if restrict == true {
			return uint64(0), nil
		}
		return all, nil
	}
	return parseMask(value, all, func(name string) (uint64, bool) {
		flag, ok := namespaces[name]
		return flag, ok
	}, "a boolean or kinds of namespaces, as in \"user mnt\"")
}

// parseCapabilities takes names of capabilities(7), or with "~" before the first all others.
func parseCapabilities(value any) (any, error) {
	return parseMask(value, 1<<len(capabilities)-1, func(name string) (uint64, bool) {
		for i, c := range capabilities {
			if strings.EqualFold("CAP_"+c, name) {
				return 1 << i, true
			}
		}
		return 0, false
	}, "names of capabilities, as in \"CAP_DAC_READ_SEARCH\"")
}

// capabilities in the order of their numbers, linux/capability.h.
var capabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
	"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
	"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND",
	"AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// parseMask takes names that stand for bits, all inverted when "~" is before the first.
func parseMask(value any, all uint64, bit func(string) (uint64, bool), want string) (any, error) {
	words, err := parseWords(value)
	if err != nil {
		return nil, err
	}
	var mask uint64
	invert := false
	for i, word := range words {
		if i == 0 {
			word, invert = strings.CutPrefix(word, "~")
		}
		if word == "" {
			continue
		}
		flag, ok := bit(word)
		if !ok {
			return nil, fmt.Errorf("%q: want %s", word, want)
		}
		mask |= flag
	}
	if invert {
		mask = all &^ mask
	}
	return mask, nil
}

// parseCPUs takes numbers and ranges, as "0-3 5": a bit mask, least significant byte first.
func parseCPUs(value any) (any, error) {
	if n, ok := value.(int64); ok {
		value = strconv.FormatInt(n, 10)
	}
	words, err := parseWords(value)
	if err != nil {
		return nil, err
	}
	mask := []byte{}
	for _, word := range words {
		for part := range strings.SplitSeq(word, ",") {
			first, last, isRange := strings.Cut(part, "-")
			if !isRange {
				last = first
			}
			a, errA := strconv.ParseUint(first, 10, 16)
			b, errB := strconv.ParseUint(last, 10, 16)
			if errA != nil || errB != nil || b < a || b >= 8192 {
				return nil, fmt.Errorf("%q: want numbers and ranges, as in \"0-3 5\"", part)
			}
			for n := a; n <= b; n++ {
				for uint64(len(mask)) <= n/8 {
					mask = append(mask, 0)
				}
				mask[n/8] |= 1 << (n % 8)
			}
		}
	}
	return mask, nil
}

// parseAddresses takes addresses, prefixes and the words of systemd.resource-control(5).
func parseAddresses(value any) (any, error) {
	type address struct {
		Family int32
		Bytes  []byte
		Length uint32
	}
	words, err := parseWords(value)
	if err != nil {
		return nil, err
	}
	list := []address{}
	for _, word := range words {
		texts, ok := map[string][]string{
			"any":        {"0.0.0.0/0", "::/0"},
			"localhost":  {"127.0.0.0/8", "::1/128"},
			"link-local": {"169.254.0.0/16", "fe80::/64"},
			"multicast":  {"224.0.0.0/4", "ff00::/8"},
		}[word]
		if !ok {
			texts = []string{word}
		}
		for _, t := range texts {
			prefix, err := parsePrefix(t)
			if err != nil {
				return nil, fmt.Errorf("%q: want an address, as in \"192.0.2.0/24\", or any, localhost, link-local or multicast", word)
			}
			family := int32(syscall.AF_INET6)
			if prefix.Addr().Is4() {
				family = syscall.AF_INET
			}
			list = append(list, address{family, prefix.Addr().AsSlice(), uint32(prefix.Bits())})
		}
	}
	return list, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if a.Zone() != "" {
		return netip.Prefix{}, errors.New("has a zone")
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
