package filebackup_test

import (
	"context"
	"fmt"
	"log"

	"sdbackup/filebackup"
)

func Example() {
	ctx := context.Background()
	r, err := filebackup.Open(&filebackup.Config{
		BasePath:          "/srv/photos",
		LocalManifestFile: "/var/lib/photos/manifest",
		LocalLockFile:     "/var/lib/photos/lock",
		S3:                filebackup.S3{Endpoint: "https://s3.example.org", Bucket: "photos", AccessKey: "AKIA...", SecretKey: "..."},
		Crypto:            filebackup.Crypto{Password: "correct horse battery staple"},
		MetaPipeline:      []string{"compress", "encrypt"},
		FilePipeline:      []filebackup.Pipeline{{Pattern: "*.jpg", Words: []string{"encrypt"}}, {Pattern: "*", Words: []string{"compress", "encrypt"}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	summary, err := r.Backup(ctx, filebackup.BackupOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(summary.New, "new files")

	v, err := r.Find(ctx, "2026-11-20 03:00")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := r.Download(ctx, v, "/srv/restored", filebackup.DownloadOptions{Paths: []string{"/holidays"}}); err != nil {
		log.Fatal(err)
	}
}

func ExampleParseConfig() {
	_, err := filebackup.ParseConfig([]byte(`{
		"base_path": "/srv/photos",
		"s3": {"bucket": "photos", "access_key": "AKIA...", "secret_key": "..."},
		"file_pipeline": [["photos/*", ["encrypt"]], ["*", ["shred"]]],
	}`))
	fmt.Println(err)
	// Output:
	// crypto.crypt_password: is missing, and pipelines say encrypt or hash_names
	// file_pipeline: "*": "shred" is not known; want hash_names, compress, encrypt
	// file_pipeline: the pattern "photos/*" begins neither with / nor with a wildcard
}

func ExampleParseDuration() {
	d, err := filebackup.ParseDuration("1y2m3d4h")
	fmt.Println(d, err)
	// Output: 10276h0m0s <nil>
}
