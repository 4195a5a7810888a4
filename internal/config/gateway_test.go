package config

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestGatewayValues(t *testing.T) {
	dir := t.TempDir()
	secret := write(t, dir+"/secret", "x")
	c := Load([]string{write(t, dir+"/t.toml", `
[gateway]
url = "https://gateway.example:4694/"
ca-file = "/etc/ssl/own.pem"
htpasswd-file = "/etc/sdbackup/gateway.htpasswd"
nodes = ["web2"]
[destination.bucket]
uuid = "3792c7db-9450-4bd3-84a3-034cd0087831"
repository = "rclone:bucket:b/backup"
password-file = "`+secret+`"
rclone-config = "`+secret+`"
max-size = "1.5T"
keep-deleted = "14d"
[destination.disk]
repository = "/srv/backup"
password-credential = "disk"
gateway = true
[destination.plain]
repository = "rclone:plain:b"
password-credential = "plain"
rclone-credential = "plain.rclone"
gateway = false
[module.m]
type = "wiki"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087839"
include = ["/n"]
max-size = "50GiB"
upload-limit = "512K"
download-limit = 1000
`)}, nil)
	if len(c.Problems) > 0 {
		t.Fatal(problems(c, dir))
	}
	if want := (Gateway{
		URL: "https://gateway.example:4694", CAFile: "/etc/ssl/own.pem", HtpasswdFile: "/etc/sdbackup/gateway.htpasswd", Nodes: []string{"web2"},
	}); !reflect.DeepEqual(c.Gateway, want) {
		t.Errorf("gateway = %+v; want %+v", c.Gateway, want)
	}
	d := c.Destinations["bucket"]
	if !d.Gateway || d.RcloneConfig != secret || d.MaxSize != 3<<39 || d.KeepDeleted != 14*24*time.Hour || d.UUID == "" {
		t.Errorf("bucket = %+v", *d)
	}
	if !c.Destinations["disk"].Gateway || c.Destinations["plain"].Gateway || c.Destinations["plain"].RcloneCredential != "plain.rclone" {
		t.Error("gateway is not what the file says")
	}
	if m := c.Modules["m"]; m.MaxSize != 50<<30 || m.UploadLimit != 512<<10 || m.DownloadLimit != 1000 {
		t.Errorf("m = %+v", *m)
	}
	if c := Load(nil, nil); c.Gateway.URL != DefaultGatewayURL {
		t.Errorf("url = %q without a configuration; want %q", c.Gateway.URL, DefaultGatewayURL)
	}
}

func TestGatewayURL(t *testing.T) {
	for text, ok := range map[string]bool{
		"http://127.0.0.1:4694": true, "https://host/": true, "unix:/run/x.sock": true, "unix:x.sock": false, "host:80": false,
		"http://": false, "http://host/?a": false, "http://user:word@host/": false, "ftp://host/": false, "http://host#x": false,
	} {
		c := Load([]string{write(t, t.TempDir()+"/t.toml", "[gateway]\nurl = \""+text+"\"\n")}, nil)
		if got := len(c.Errors()) == 0; got != ok {
			t.Errorf("url = %q is right: %v; want %v", text, got, ok)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4096": 4096, "1K": 1 << 10, "1.5G": 3 << 29, "50GiB": 50 << 30, "7 M": 7 << 20, "2TB": 2 << 40, "3P": 3 << 50, "12B": 12,
		"": -1, "K": -1, "5 apples": -1, "-1": -1, "1e3": -1, "1..2": -1, "0x10": -1, "infinity": -1, "9999999P": -1, "1KK": -1,
	} {
		got, err := ParseSize(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("1.5GiB")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseSize(text)
		if err == nil && (n < 0 || n == math.MaxInt64 || strings.ContainsAny(text, "-eExX_")) {
			t.Errorf("ParseSize(%q) = %d", text, n)
		}
	})
}
