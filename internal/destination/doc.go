// Package destination keeps the places where backups go: it adds, alters, removes, examines, exports and imports destinations.
//
// What it makes is plain configuration. A destination is a file of its own, destination-ID.toml in the folder of the highest layer,
// with the part that everybody may read; beside it the folder secret/, of mode 0700, has its secrets in files of mode 0600:
//
//	ID.password     the password of the restic repositories
//	ID.rclone.conf  the one remote, named by the ID, that rclone reaches it by
//	ID.env          user and password for a server of restic's REST protocol
//
// Instead of the first two there may be credentials that systemd-creds(1) has encrypted. Secrets are written before the file that names
// them, and removed after it, each durably: whatever kills the writer, no destination is ever without its secrets. A restic password
// is never overwritten nor removed unless that is asked for: without it nobody can read what is stored.
//
// Only files that this package made are altered or removed; they are known by their first line. A destination that somebody wrote by hand is listed,
// examined and exported as well.
//
// Stored data is never touched, but for the probe object that Validate makes and deletes, and what the gateway moved into its holding area,
// which Undelete moves back. No secret is ever an argument of a process, and none is in
// an error, a listing or a verdict.
package destination
