package nodecopy

import (
	"archive/tar"
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ProtonMail/go-crypto/openpgp/s2k"
)

// small is a copy with few bytes.
func small() Copy {
	return Copy{
		Manifest: Manifest{Format: 1, Node: Node{"web1", nodeUUID}, Layers: []string{"/etc/sdbackup"}},
		Files:    []File{{"/etc/sdbackup/a.toml", 0o644, []byte("# " + marker)}},
	}
}

// refused checks that nothing is returned, and no secret told.
func refused(t *testing.T, what string, c Copy, err error, want ...error) {
	t.Helper()
	if err == nil || !reflect.DeepEqual(c, Copy{}) {
		t.Errorf("%s: a copy is returned, with error %v", what, err)
		return
	}
	if len(want) > 0 && !slices.ContainsFunc(want, func(w error) bool { return errors.Is(err, w) }) {
		t.Errorf("%s: %v; want %v", what, err, want)
	}
	if strings.Contains(err.Error(), marker) || strings.Contains(err.Error(), "\n") {
		t.Errorf("%s: %q tells a secret, or is more than a line", what, err)
	}
}

func TestWrongPassphrase(t *testing.T) {
	file := encrypted(t, small())
	for i := range 50 {
		c, err := Decrypt(bytes.NewReader(file), fmt.Appendf(nil, "wrong %d", i))
		refused(t, "wrong", c, err, ErrPassphrase)
	}
	c, err := Decrypt(bytes.NewReader(file), nil)
	refused(t, "none", c, err, ErrPassphrase)
}

func TestTruncated(t *testing.T) {
	file := encrypted(t, small())
	for n := range file {
		c, err := Decrypt(bytes.NewReader(file[:n]), []byte(passphrase))
		refused(t, fmt.Sprintf("%d of %d bytes", n, len(file)), c, err, ErrTruncated)
	}
	large := small()
	for i := range 40 { // enough for packets in parts
		large.Files = append(large.Files, File{fmt.Sprintf("/etc/%d", i), 0o600, random(i, 997)})
	}
	file = encrypted(t, large)
	if len(file) < 40_000 {
		t.Fatalf("it has %d bytes", len(file))
	}
	for n := 0; n < len(file); n += 101 {
		c, err := Decrypt(bytes.NewReader(file[:n]), []byte(passphrase))
		refused(t, fmt.Sprintf("%d of %d bytes", n, len(file)), c, err, ErrTruncated)
	}
}

// random returns bytes that cannot be compressed, always the same.
func random(seed, n int) []byte {
	out := make([]byte, 0, n+32)
	for i := 0; len(out) < n; i++ {
		h := crypto.SHA256.New()
		fmt.Fprint(h, seed, i)
		out = h.Sum(out)
	}
	return out[:n]
}

func TestFlippedBytes(t *testing.T) {
	file := encrypted(t, small())
	for i := range file {
		for _, bit := range []byte{0x01, 0x80} {
			damaged := bytes.Clone(file)
			damaged[i] ^= bit
			c, err := Decrypt(bytes.NewReader(damaged), []byte(passphrase))
			refused(t, fmt.Sprintf("byte %d", i), c, err, ErrDamaged, ErrTruncated, ErrForeign, ErrPassphrase)
		}
	}
	c, err := Decrypt(bytes.NewReader(append(bytes.Clone(file), 'x')), []byte(passphrase))
	refused(t, "with a tail", c, err, ErrDamaged)
	c, err = Decrypt(bytes.NewReader(append(bytes.Clone(file), file...)), []byte(passphrase))
	refused(t, "twice", c, err, ErrDamaged)
}

func TestForeignFiles(t *testing.T) {
	file := encrypted(t, small())
	argon := bytes.Clone(file)
	argon[4] = 4 // S2K
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":         {nil, ErrTruncated},
		"text":          {[]byte("Dear diary\n"), ErrForeign},
		"armor":         {[]byte("-----BEGIN PGP MESSAGE-----\n"), ErrForeign},
		"gzip":          {zipped(t, nil), ErrForeign},
		"a picture":     {[]byte("\xff\xd8\xff\xe0\x00\x10JFIF"), ErrForeign},
		"a key":         {[]byte{0x99, 0x01, 0x0d, 4}, ErrForeign},
		"argon2":        {argon, ErrForeign},
		"many keys":     {bytes.Repeat(file[:2+int(file[1])], 5), ErrForeign},
		"not encrypted": {[]byte{0xcb, 7, 'b', 0, 0, 0, 0, 0, 'x'}, ErrForeign},
		"old packet":    {append(bytes.Clone(file[:2+int(file[1])]), 0xc9, 3, 1, 2, 3), ErrForeign},
		"no key":        {file[2+int(file[1]):], ErrForeign},
		"too large":     {make([]byte, maxFileBytes+1), ErrTooLarge},
	} {
		got, err := Decrypt(bytes.NewReader(c.data), []byte(passphrase))
		refused(t, name, got, err, c.want)
	}
	broken := errors.New("network is down")
	c, err := Decrypt(io.MultiReader(bytes.NewReader(file[:99]), iotest.ErrReader(broken)), []byte(passphrase))
	refused(t, "reading fails", c, err, broken)
}

// sealed encrypts any bytes as Encrypt does a copy.
func sealed(t testing.TB, data []byte, compress bool) []byte {
	t.Helper()
	var b bytes.Buffer
	cfg := &packet.Config{DefaultCipher: packet.CipherAES256, S2KConfig: &s2k.Config{S2KMode: s2k.IteratedSaltedS2K, S2KCount: quick}}
	key, err := packet.SerializeSymmetricKeyEncrypted(&b, []byte(passphrase), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w, err := packet.SerializeSymmetricallyEncrypted(&b, cfg.Cipher(), false, packet.CipherSuite{}, key, cfg)
	if err == nil && compress {
		w, err = packet.SerializeCompressed(w, packet.CompressionZIP, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if w, err = packet.SerializeLiteral(w, true, "", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestForeignInside(t *testing.T) {
	good := packed(t, small())
	bomb := zipped(t, make([]byte, maxPlainBytes+1))
	for name, c := range map[string]struct {
		data     []byte
		compress bool
		want     error
	}{
		"no gzip":           {good, false, ErrForeign},
		"no tar":            {zipped(t, []byte("x")), false, ErrForeign},
		"nothing":           {nil, false, ErrForeign},
		"an empty tar":      {zipped(t, make([]byte, 1024)), false, ErrForeign},
		"cut tar":           {zipped(t, good[:700]), false, ErrForeign},
		"cut gzip":          {zipped(t, good)[:100], false, ErrForeign},
		"tail behind gzip":  {append(zipped(t, good), 'x'), false, ErrForeign},
		"two gzips":         {append(zipped(t, good), zipped(t, good)...), false, ErrForeign},
		"tail behind tar":   {zipped(t, append(bytes.Clone(good), 'x')), false, ErrForeign},
		"zeros behind tar":  {zipped(t, append(bytes.Clone(good), make([]byte, maxPlainBytes)...)), false, ErrTooLarge},
		"a bomb":            {bomb, false, ErrForeign}, // an archive with no entry
		"a compressed bomb": {make([]byte, maxFileBytes+1), true, ErrForeign},
	} {
		got, err := Decrypt(bytes.NewReader(sealed(t, c.data, c.compress)), []byte(passphrase))
		refused(t, name, got, err, c.want)
	}
	for _, compress := range []bool{false, true} {
		if _, err := Decrypt(bytes.NewReader(sealed(t, zipped(t, good), compress)), []byte(passphrase)); err != nil {
			t.Errorf("a good one: %v", err)
		}
	}
}

// archive makes any tar.
func archive(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h := *h
		data := []byte{}
		if h.Name == manifestName && h.Size == 0 {
			data = small().entries()[0].data
		}
		if h.Linkname == "" && h.Size == 0 {
			h.Size = int64(len(data))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if h.Size > 0 && len(data) == 0 {
			data = make([]byte, min(h.Size, 1<<10))
		}
		w.Write(data)
	}
	w.Flush()
	return append(b.Bytes(), make([]byte, 1024)...)
}

func TestHostileArchives(t *testing.T) {
	manifest := func() *tar.Header {
		return &tar.Header{Name: manifestName, Mode: 0o644, Typeflag: tar.TypeReg}
	}
	file := func(name string) *tar.Header {
		return &tar.Header{Name: name, Mode: 0o600, Typeflag: tar.TypeReg}
	}
	kind := func(flag byte) *tar.Header {
		h := &tar.Header{Name: "files/etc/x", Mode: 0o600, Typeflag: flag}
		if flag == tar.TypeLink || flag == tar.TypeSymlink {
			h.Linkname = "/etc/shadow"
		}
		return h
	}
	setuid := file("files/etc/x")
	setuid.Mode = 0o4755
	large := file("files/etc/x")
	large.Size = maxPlainBytes + 1
	huge := file("files/etc/x")
	huge.Size = 1 << 40
	if _, err := unpack(bytes.NewReader(archive(t, manifest(), file("files/etc/x"), file("status/1.json"), file("credentials/x")))); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	for name, c := range map[string]struct {
		headers []*tar.Header
		want    error
	}{
		"no manifest":          {[]*tar.Header{file("files/etc/x")}, ErrForeign},
		"manifest last":        {[]*tar.Header{file("files/etc/x"), manifest()}, ErrForeign},
		"two manifests":        {[]*tar.Header{manifest(), manifest()}, ErrForeign},
		"absolute":             {[]*tar.Header{manifest(), file("/etc/x")}, ErrForeign},
		"absolute below files": {[]*tar.Header{manifest(), file("files//etc/x")}, ErrForeign},
		"up":                   {[]*tar.Header{manifest(), file("files/../etc/x")}, ErrForeign},
		"up at the end":        {[]*tar.Header{manifest(), file("files/etc/..")}, ErrForeign},
		"up at the start":      {[]*tar.Header{manifest(), file("../files/x")}, ErrForeign},
		"dot":                  {[]*tar.Header{manifest(), file("files/./x")}, ErrForeign},
		"empty":                {[]*tar.Header{manifest(), file("")}, ErrForeign},
		"only files":           {[]*tar.Header{manifest(), file("files")}, ErrForeign},
		"not UTF-8":            {[]*tar.Header{manifest(), file("files/etc/\xff")}, ErrForeign},
		"escape":               {[]*tar.Header{manifest(), file("files/etc/\x1b[2J")}, ErrForeign},
		"line end":             {[]*tar.Header{manifest(), file("files/etc/x\ny")}, ErrForeign},
		"long element":         {[]*tar.Header{manifest(), file("files/" + strings.Repeat("x", 256))}, ErrForeign},
		"deep name":            {[]*tar.Header{manifest(), file("files" + strings.Repeat("/x", 64))}, ErrForeign},
		"long name":            {[]*tar.Header{manifest(), file("files" + strings.Repeat("/xxxxxxx", 512))}, ErrForeign},
		"elsewhere":            {[]*tar.Header{manifest(), file("data/x")}, ErrForeign},
		"below the manifest":   {[]*tar.Header{manifest(), file("manifest.json/x")}, ErrForeign},
		"duplicate":            {[]*tar.Header{manifest(), file("files/etc/x"), file("files/etc/x")}, ErrForeign},
		"file and folder":      {[]*tar.Header{manifest(), file("files/etc/x"), file("files/etc/x/y")}, ErrForeign},
		"folder and file":      {[]*tar.Header{manifest(), file("files/etc/x/y"), file("files/etc/x")}, ErrForeign},
		"credential in folder": {[]*tar.Header{manifest(), file("credentials/x/y")}, ErrForeign},
		"hidden credential":    {[]*tar.Header{manifest(), file("credentials/.x")}, ErrForeign},
		"record of no backup":  {[]*tar.Header{manifest(), file("status/x")}, ErrForeign},
		"deep record":          {[]*tar.Header{manifest(), file("status/1/2/3.json")}, ErrForeign},
		"folder":               {[]*tar.Header{manifest(), kind(tar.TypeDir)}, ErrForeign},
		"hard link":            {[]*tar.Header{manifest(), kind(tar.TypeLink)}, ErrForeign},
		"symbolic link":        {[]*tar.Header{manifest(), kind(tar.TypeSymlink)}, ErrForeign},
		"character device":     {[]*tar.Header{manifest(), kind(tar.TypeChar)}, ErrForeign},
		"block device":         {[]*tar.Header{manifest(), kind(tar.TypeBlock)}, ErrForeign},
		"fifo":                 {[]*tar.Header{manifest(), kind(tar.TypeFifo)}, ErrForeign},
		"setuid":               {[]*tar.Header{manifest(), setuid}, ErrForeign},
		"large":                {[]*tar.Header{manifest(), large}, ErrTooLarge},
		"huge":                 {[]*tar.Header{manifest(), huge}, ErrTooLarge},
	} {
		got, err := unpack(bytes.NewReader(archive(t, c.headers...)))
		refused(t, name, got, err, c.want)
	}
	headers := []*tar.Header{manifest()}
	for i := range maxEntries {
		headers = append(headers, file(fmt.Sprintf("files/%d", i)))
	}
	got, err := unpack(bytes.NewReader(archive(t, headers...)))
	refused(t, "many", got, err, ErrTooLarge)
	if _, err := unpack(bytes.NewReader(archive(t, headers[:maxEntries]...))); err != nil {
		t.Errorf("%d entries: %v", maxEntries, err)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"", "/", "/x", "x/", "x//y", ".", "..", "x/../y", "x\x00y", "x\x7fy", "\u0085", "\xc3"} {
		if checkName(name) == nil {
			t.Errorf("checkName(%q) = nil", name)
		}
	}
	for _, p := range []string{"", "/", "x", "//x", "/x/", "/x/../y", "/x\x00"} {
		if checkPath(p) == nil {
			t.Errorf("checkPath(%q) = nil", p)
		}
	}
	for _, c := range []Copy{
		{Files: []File{{Path: "/etc/../x"}}},
		{Files: []File{{Path: "/x"}, {Path: "/x"}}},
		{Credentials: []Credential{{Name: "a/b"}}},
		{Records: []Record{{Name: "../x.json"}}},
	} {
		if err := c.pack(io.Discard); err == nil {
			t.Errorf("%v is packed", c)
		}
	}
}

func TestManifests(t *testing.T) {
	node := `"node":{"uuid":"` + nodeUUID + `"}`
	for text, want := range map[string]error{
		`{"format":1,` + node + `,"layers":["/etc/sdbackup"],"new-key":1}`: nil,
		`{"format":2}`:                         ErrNewer,
		`{"format":2,"node":"` + marker + `"}`: ErrNewer,
		`{"format":0}`:                         ErrForeign,
		`{}`:                                   ErrForeign,
		``:                                     ErrForeign,
		`["` + marker + `"]`:                   ErrForeign,
		`{"format":"1"}`:                       ErrForeign,
		`{"format":1,"layers":["/etc/sdbackup"]}`:                                                   ErrForeign,
		`{"format":1,` + node + `}`:                                                                 ErrForeign,
		`{"format":1,` + node + `,"layers":["etc"]}`:                                                ErrForeign,
		`{"format":1,` + node + `,"layers":["/etc/../x"]}`:                                          ErrForeign,
		`{"format":1,` + node + `,"layers":["/etc"],"modules":[{"id":"../x"}]}`:                     ErrForeign,
		`{"format":1,` + node + `,"layers":["/etc"],"destinations":[{"id":""}]}`:                    ErrForeign,
		`{"format":1,` + node + `,"layers":["/etc"],"destinations":[{"id":"` + "\x1b" + `"}]}`:      ErrForeign,
		`{"format":1,` + node + `,"layers":["/etc"],"modules":"` + marker + `"}`:                    ErrForeign,
		`{"format":1,"node":{"uuid":"../../` + nodeUUID + `"},"layers":["/etc"],"destinations":[]}`: ErrForeign,
	} {
		m, err := readManifest([]byte(text))
		switch {
		case want == nil && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != nil && (!errors.Is(err, want) || strings.Contains(err.Error(), marker) || !reflect.DeepEqual(m, Manifest{})):
			t.Errorf("%s: %v; want %v, and no secret", text, err, want)
		}
	}
}

// FuzzUnpack checks that an archive is refused, or gives a copy that can be written and read again.
func FuzzUnpack(f *testing.F) {
	f.Add(packed(f, small()))
	full := small()
	full.Credentials = []Credential{{"x", []byte("y")}}
	full.Records = []Record{{"1.json", []byte("{}")}, {"1/wiki1.json", []byte("{}")}}
	f.Add(packed(f, full))
	f.Add(archive(f, &tar.Header{Name: manifestName, Typeflag: tar.TypeReg}, &tar.Header{Name: "files/x", Typeflag: tar.TypeSymlink, Linkname: "y"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := unpack(bytes.NewReader(data))
		if err != nil {
			if !reflect.DeepEqual(c, Copy{}) {
				t.Fatalf("a part is returned with %v", err)
			}
			return
		}
		first := packed(t, c)
		back, err := unpack(bytes.NewReader(first))
		if err != nil || back.Digest() != c.Digest() || !bytes.Equal(packed(t, back), first) {
			t.Fatalf("what was read is not what can be written: %v", err)
		}
		for _, file := range c.Files {
			if checkPath(file.Path) != nil || file.Mode&^0o777 != 0 {
				t.Fatalf("%q has mode %o", file.Path, file.Mode)
			}
		}
	})
}

// FuzzDecrypt checks that any file is refused in one line, or gives a copy.
func FuzzDecrypt(f *testing.F) {
	f.Add(encrypted(f, small()))
	f.Add(sealed(f, zipped(f, packed(f, small())), true))
	f.Add([]byte("\x8c\x0d\x04\x09\x03\x08saltsalt\x60"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Decrypt(bytes.NewReader(data), []byte(passphrase))
		switch {
		case err == nil && c.Manifest.Format != format:
			t.Fatalf("a copy of format %d", c.Manifest.Format)
		case err != nil && (!reflect.DeepEqual(c, Copy{}) || strings.Contains(err.Error(), "\n")):
			t.Fatalf("a part is returned with %v", err)
		}
	})
}
