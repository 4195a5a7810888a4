// backup-gateway stands between modules and destinations: restic's REST protocol and WebDAV for every destination of the configuration
// that it is to serve. It alone holds their secrets, and it lets modules add to their own repositories and do nothing else.
//
// Synopsis:
//
//	backup-gateway serve [--listen ADDRESS...] [--tls ...] [--exit-idle-time TIME]
//	backup-gateway rest-server [flags of rest-server]
package main

import (
	"os"

	"sdbackup/internal/cli"
)

type grammar struct {
	Serve      serve      `cmd:"" help:"Serve the destinations of the configuration."`
	RestServer restServer `cmd:"" help:"Serve a folder of restic repositories, as restic's rest-server does, with its flags."`
}

func main() {
	os.Exit(cli.Main("backup-gateway", "Stands between modules and destinations, and keeps the destinations' secrets.",
		new(grammar), os.Args[1:], cli.OS()))
}
