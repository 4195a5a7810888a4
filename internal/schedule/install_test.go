package schedule

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// fakeUnitManager writes down what it is told.
type fakeUnitManager struct{ calls []string }

func (m *fakeUnitManager) Reload(context.Context) error {
	m.calls = append(m.calls, "reload")
	return nil
}

func (m *fakeUnitManager) Enable(_ context.Context, names []string) error {
	for _, name := range names {
		m.calls = append(m.calls, "enable "+name)
	}
	return nil
}

func (m *fakeUnitManager) Start(_ context.Context, name string) error {
	m.calls = append(m.calls, "start "+name)
	return nil
}

func TestInstall(t *testing.T) {
	manager := new(fakeUnitManager)
	i := &Installer{
		Folder:  filepath.Join(t.TempDir(), "systemd", "user"),
		Files:   map[string][]byte{"b.service": []byte("# ours\nb\n"), "a.path": []byte("# ours\na\n")},
		Header:  []byte("# ours\n"),
		Enable:  []string{"a.path"},
		Manager: manager,
	}
	written, err := i.Install(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	service := filepath.Join(i.Folder, "b.service")
	if want := []string{filepath.Join(i.Folder, "a.path"), service}; !slices.Equal(written, want) {
		t.Errorf("written %v; want %v", written, want)
	}
	if info, err := os.Stat(service); err != nil || info.Mode() != unitMode {
		t.Errorf("%v, %v; want mode %o", info, err, unitMode)
	}
	if want := []string{"reload", "enable a.path", "start a.path"}; !slices.Equal(manager.calls, want) {
		t.Errorf("calls %v; want %v", manager.calls, want)
	}

	t.Run("again", func(t *testing.T) {
		if written, err := i.Install(t.Context()); err != nil || len(written) > 0 {
			t.Errorf("written %v, %v; want nothing, because nothing differs", written, err)
		}
	})
	t.Run("a later version", func(t *testing.T) {
		i.Files["b.service"] = []byte("# ours\nb2\n")
		if written, err := i.Install(t.Context()); err != nil || !slices.Equal(written, []string{service}) {
			t.Errorf("written %v, %v; want only what differs", written, err)
		}
	})
	t.Run("a file of the administrator's", func(t *testing.T) {
		if err := os.WriteFile(service, []byte("[Service]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		i.Files["a.path"] = []byte("# ours\na2\n")
		written, err := i.Install(t.Context())
		if !errors.Is(err, ErrForeignFile) || len(written) > 0 {
			t.Errorf("written %v, %v; want ErrForeignFile and nothing written", written, err)
		}
	})
	t.Run("no manager", func(t *testing.T) {
		i.Manager, i.Folder = nil, t.TempDir()
		if written, err := i.Install(t.Context()); err != nil || len(written) != 2 {
			t.Errorf("written %v, %v; want both files", written, err)
		}
	})
}
