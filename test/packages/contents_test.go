//go:build packages

package packages

import (
	"debug/elf"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "x86_64": elf.EM_X86_64, "aarch64": elf.EM_AARCH64}

// names lists the names in a folder of the source that a pattern matches.
func names(t *testing.T, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "..", pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %v, %v", pattern, paths, err)
	}
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	return paths
}

// manuals finds the manual pages that a unit names.
var manuals = regexp.MustCompile(`man:([a-z-]+)\((\d)\)`)

// Every program, manual page, completion and unit of the source is in the packages, which were made without a list of them.
func TestContents(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64", "x86_64", "aarch64"} {
		format := map[bool]string{true: "deb", false: "rpm"}[arch == "amd64" || arch == "arm64"]
		t.Run(arch+" "+format, func(t *testing.T) {
			path := only(t, filepath.Join(current, "sdbackup*"+arch+"."+format))
			root := t.TempDir()
			if format == "deb" {
				must(t, "dpkg-deb", "--extract", path, root)
			} else {
				must(t, "sh", "-c", `rpm2cpio "$1" | cpio --quiet --extract --make-directories --no-absolute-filenames -D "$2"`, "sh", path, root)
			}
			in := func(path string) string { return filepath.Join(root, path) }
			zsh := map[string]string{"deb": "vendor-completions", "rpm": "site-functions"}[format]
			for _, program := range names(t, "cmd/*") {
				stays(t, in("/usr/bin/"+program), in("/usr/share/man/man1/"+program+".1.gz"), in("/usr/share/bash-completion/completions/"+program),
					in("/usr/share/fish/vendor_completions.d/"+program+".fish"), in("/usr/share/zsh/"+zsh+"/_"+program))
				if f, err := elf.Open(in("/usr/bin/" + program)); err != nil || f.Machine != machines[arch] {
					t.Errorf("%s is not for %s: %v", program, arch, err)
				}
			}
			for _, unit := range append(append(names(t, "systemd/*.service"), names(t, "systemd/*.socket")...), append(names(t, "systemd/*.path"), names(t, "systemd/*.slice")...)...) {
				stays(t, in("/usr/lib/systemd/system/"+unit))
				for _, m := range manuals.FindAllStringSubmatch(read(t, in("/usr/lib/systemd/system/"+unit)), -1) {
					stays(t, in("/usr/share/man/man"+m[2]+"/"+m[1]+"."+m[2]+".gz"))
				}
			}
			for _, unit := range names(t, "systemd/user/*") {
				stays(t, in("/usr/lib/systemd/user/"+unit))
			}
			for _, guide := range names(t, "docs/*.md") {
				stays(t, in("/usr/share/doc/sdbackup/"+guide))
			}
			stays(t, in("/usr/lib/tmpfiles.d/sdbackup.conf"), in("/usr/lib/systemd/catalog/sdbackup.catalog"), in("/usr/lib/systemd/system-preset/80-sdbackup.preset"),
				in("/usr/share/man/man5/sdbackup.toml.5.gz"), in("/usr/share/doc/sdbackup/examples/sdbackup.rules.yml"))
			stays(t, in(map[string]string{"deb": "/usr/share/doc/sdbackup/copyright", "rpm": "/usr/share/licenses/sdbackup/LICENSE"}[format]))

			if format == "rpm" {
				return
			}
			control := t.TempDir()
			must(t, "dpkg-deb", "--control", path, control)
			if got := read(t, control+"/conffiles"); got != example+"\n" {
				t.Errorf("files of configuration: %s", got)
			}
			for _, script := range []string{"postinst", "prerm", "postrm"} {
				if text := read(t, control+"/"+script); strings.Contains(text, "@ENABLED") || strings.Contains(text, "@UNITS") || strings.Contains(text, "@RUNS") || strings.Contains(text, "@STAMPS") {
					t.Errorf("%s has gaps:\n%s", script, text)
				}
			}
			if got := must(t, "dpkg-deb", "--field", path, "Depends", "Recommends"); !strings.Contains(got, "Depends: restic") || !strings.Contains(got, "Recommends: rclone") ||
				!strings.Contains(got, "prometheus-node-exporter") {
				t.Errorf("the package wants\n%s", got)
			}
		})
	}
}

// Installed into a tree that is not running, as for an image, the units are enabled and nothing is started.
func TestImage(t *testing.T) {
	for _, format := range []string{"deb", "rpm"} {
		t.Run(format, func(t *testing.T) {
			memory := t.TempDir()
			must(t, "mount", "-t", "tmpfs", "tmpfs", memory)
			t.Cleanup(func() { must(t, "umount", "--recursive", memory) })
			root := memory + "/root"
			must(t, "mkdir", root, memory+"/upper", memory+"/work")
			must(t, "mount", "-t", "overlay", "-o", "lowerdir=/,upperdir="+memory+"/upper,workdir="+memory+"/work", "overlay", root)
			must(t, "mount", "-t", "tmpfs", "tmpfs", root+"/run") // nothing runs in an image
			must(t, "mount", "-t", "proc", "proc", root+"/proc")
			install, remove := []string{"dpkg", "--root=" + root, "--install"}, []string{"dpkg", "--root=" + root, "--purge", "sdbackup"}
			if format == "rpm" {
				install, remove = rpmCommand(t, "--root", root, "--install"), rpmCommand(t, "--root", root, "--erase", "sdbackup")
			}
			out := must(t, append(install, pkg(t, current, format))...)
			for line := range strings.Lines(out) {
				if lower := strings.ToLower(line); strings.Contains(lower, "error") || strings.Contains(lower, "fail") {
					t.Errorf("the installation prints %s", line)
				}
			}
			for _, link := range []string{"timers.target.wants/backup-timers.service", "backup-timers.service.wants/backup-timers.path"} {
				stays(t, root+"/etc/systemd/system/"+link)
			}
			gone(t, root+"/etc/systemd/system/sockets.target.wants/backup-gateway.socket")
			if out := loaded(t); out != "" {
				t.Errorf("units of the machine itself: %s", out)
			}
			if format == "rpm" {
				if out, code := run(t, "rpm", "--root", root, "--verify", "--nodeps", "sdbackup"); code != 0 || out != "" {
					t.Errorf("rpm --verify: exit code %d\n%s", code, out)
				}
			} else if out, code := run(t, "dpkg", "--root="+root, "--verify", "sdbackup"); code != 0 || out != "" {
				t.Errorf("dpkg --verify: exit code %d\n%s", code, out)
			}
			write(t, root+site, "# an administrator's\n", 0o644)
			must(t, remove...)
			for _, link := range []string{"timers.target.wants/backup-timers.service", "backup-timers.service.wants/backup-timers.path"} {
				gone(t, root+"/etc/systemd/system/"+link)
			}
			gone(t, root+"/usr/bin/run-backup")
			if _, err := os.Stat(root + site); (err == nil) != (format == "rpm") {
				t.Errorf("the configuration after a removal of the .rpm or a purge of the .deb: %v", err)
			}
		})
	}
}
