// Package gateway is the HTTP server between modules and destinations: restic's REST protocol and WebDAV, authenticated, for every
// destination of the configuration, of which it alone holds the secrets.
//
// The way of a request, in gateway.go:
//
//	who is it?          authenticate.go   run token, user and password, client certificate, peer of the unix socket
//	what does it want?  request.go        protocol, destination, repository, object: from the decoded and checked path
//	may it?             authorize.go      a pure function
//	where is it?        destination.go    a folder, served in process; or rclone, or another gateway, which is spoken to
//
// What must hold: no principal but a node can remove or replace what was saved, whatever the destination's own server would allow; a
// blob is only stored when its name is the SHA-256 of what came; and a destination that is dead hurts nobody else's.
package gateway
