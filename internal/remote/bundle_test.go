package remote

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// store keeps the files of a bundle for a test.
type store map[string][]byte

type entry struct {
	bytes.Buffer
	done func([]byte)
}

func (e *entry) Close() error { e.done(e.Bytes()); return nil }

func (s store) create(f File) (io.WriteCloser, error) {
	return &entry{done: func(data []byte) { s[f.Name] = data }}, nil
}

func (s store) open(f File) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s[f.Name])), nil
}

func sample() (*Manifest, store) {
	files := store{"web2.toml": []byte("[node]\n"), "secret/archive.password": []byte("planted\n"), "empty": {}}
	return &Manifest{
		Remote: "web2", Configuration: "web2.toml", Command: []string{"run-backup", "--all"}, Keepalive: 30 * time.Second,
		Files: []File{{"web2.toml", 7}, {"secret/archive.password", 8}, {"empty", 0}},
	}, files
}

func TestBundle(t *testing.T) {
	m, files := sample()
	var wire bytes.Buffer
	if err := WriteBundle(&wire, m, files.open); err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(wire.Bytes())
	wire.WriteString("what follows")
	got := store{}
	read, err := ReadBundle(&wire, got.create)
	if err != nil || read.Remote != "web2" || len(read.Files) != 3 || string(got["secret/archive.password"]) != "planted\n" {
		t.Fatalf("ReadBundle = %+v, %v with files %v", read, err, got)
	}
	if wire.String() != "what follows" {
		t.Errorf("ReadBundle left %q; want what follows the bundle", wire.String())
	}
	for n := range whole {
		if _, err := ReadBundle(bytes.NewReader(whole[:n]), store{}.create); !errors.Is(err, ErrCut) {
			t.Fatalf("a bundle that is cut after %d of %d bytes: %v; want ErrCut", n, len(whole), err)
		}
		damaged := bytes.Clone(whole)
		damaged[n] ^= 0x10
		if _, err := ReadBundle(bytes.NewReader(damaged), store{}.create); err == nil {
			t.Fatalf("a bundle with a flipped bit at byte %d was taken", n)
		}
	}
}

func TestBundleRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Manifest)
		want   string
	}{
		"absolute":          {func(m *Manifest) { m.Files[1].Name = "/etc/shadow" }, "absolute"},
		"dots":              {func(m *Manifest) { m.Files[1].Name = "../shadow" }, `".."`},
		"dots within":       {func(m *Manifest) { m.Files[1].Name = "a/../../b" }, `".."`},
		"twice":             {func(m *Manifest) { m.Files[1].Name = "web2.toml" }, "twice"},
		"two ways to write": {func(m *Manifest) { m.Files[1].Name = "a//b" }, "plain"},
		"file and folder":   {func(m *Manifest) { m.Files[1].Name = "empty/x" }, "a file and a folder"},
		"NUL":               {func(m *Manifest) { m.Files[1].Name = "a\x00" }, "no name"},
		"too large":         {func(m *Manifest) { m.Files[1].Size = MaxBytes }, "larger than"},
		"negative":          {func(m *Manifest) { m.Files[1].Size = -1 }, "size"},
		"no configuration":  {func(m *Manifest) { m.Configuration = "web3.toml" }, "not among"},
		"negative time":     {func(m *Manifest) { m.Keepalive = -1 }, "negative"},
	} {
		t.Run(name, func(t *testing.T) {
			m, files := sample()
			c.change(m)
			err := m.Validate()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Validate = %v; want one that says %q", err, c.want)
			}
			if err := WriteBundle(io.Discard, m, files.open); err == nil {
				t.Error("WriteBundle wrote it")
			}
			if _, err := ReadBundle(bytes.NewReader(forge(m)), store{}.create); !errors.Is(err, ErrBundle) {
				t.Errorf("ReadBundle = %v; want ErrBundle", err)
			}
		})
	}
	link := []byte(`{"remote":"x","configuration":"a","files":[{"name":"a","size":0,"type":"link","target":"/etc/shadow"}]}`)
	if _, err := ReadBundle(bytes.NewReader(frame(link)), store{}.create); !errors.Is(err, ErrBundle) {
		t.Errorf("a link: %v; want ErrBundle", err)
	}
}

func forge(m *Manifest) []byte {
	data, _ := json.Marshal(m)
	return append(frame(data), make([]byte, 100)...)
}

func frame(manifest []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte(magic), uint32(len(manifest))), manifest...)
}

func FuzzReadBundle(f *testing.F) {
	m, files := sample()
	var wire bytes.Buffer
	if err := WriteBundle(&wire, m, files.open); err != nil {
		f.Fatal(err)
	}
	f.Add(wire.Bytes())
	f.Add(forge(m))
	f.Add([]byte(magic + "\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := store{}
		m, err := ReadBundle(bytes.NewReader(data), got.create)
		if err != nil {
			return
		}
		if err := m.Validate(); err != nil {
			t.Fatalf("what was read is not valid: %v", err)
		}
		var again bytes.Buffer
		if err := WriteBundle(&again, m, got.open); err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		back := store{}
		if _, err := ReadBundle(&again, back.create); err != nil || len(back) != len(got) {
			t.Fatalf("what was written cannot be read: %v", err)
		}
	})
}
