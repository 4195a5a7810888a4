// Package filebackup keeps the versions of a folder's files in an S3 bucket: each file is an object, each backup one atomic commit.
//
// Open a Repository with a Config, then Backup, Versions, Find, Files, Download, Verify and so on. The command file-backup is a thin
// user of this package.
//
// # What a bucket holds
//
// The bucket keeps versions of objects, and versions of objects are all that is ever referred to. The files are objects below
// "files". A version of the backup is a version of the object "manifest_diffs": what changed since the version before, each file with
// its hash and the version of its object. The version exists from the moment in which that object is stored, and not before. The
// format is that of rrbackup 1.0; format.go and manifest.go say what is new and how rrbackup takes it.
//
// # What must hold
//
//   - Before anything is stored, "gc_log" says what, and a local journal says what has been stored. So a run that dies leaves
//     nothing that the next one does not find; what it stored is used again.
//   - The lock is taken before anything is cleaned up, and what may belong to a run elsewhere is left alone.
//   - Nothing is removed that any version refers to, which is found out from all diffs, never from times: some servers change them.
//   - The local manifest is a copy. A bucket that does not fit it is a TamperError, and nothing is changed.
//   - Where Object Lock is wanted, no backup succeeds that leaves anything of the latest version with less than nine tenths of the time.
//   - Contents are compared with the hashes of the manifest whenever they are read.
//
// A Repository may be used from several goroutines.
package filebackup
