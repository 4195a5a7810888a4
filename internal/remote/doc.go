// Package remote does what remote-backup does: it sends a configuration with its files to another host, which runs a command by it and
// forgets it; and it lets hosts fetch theirs.
//
// What travels is a bundle (bundle.go): a manifest, the files, a digest. It is packed from a [remote.ID] table (pack.go), sent over SSH
// (send.go, ssh.go, openssh.go) or served over HTTPS, or over HTTP encrypted (serve.go, fetch.go). Who gets one keeps it in memory that has
// no place in the file system (memory.go), and the receiving end of SSH runs the command (receive.go).
//
// What must hold: nothing runs before the digest was found right; no byte of a bundle is written to a file system with a disk under it, nor to
// memory that is swapped, where the kernel has such; what was received is gone with the last process that works by it, whatever kills them;
// and when the sender is gone, the command is ended in order.
package remote
