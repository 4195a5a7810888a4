// Package restserver serves restic's REST backend protocol from folders in the layout of restic's local backend, so that a
// repository can be used over HTTP and locally at the same time. It has two levels:
//
//   - A Store is one repository. Its caller has authenticated the client, parsed the path with ParsePath, and answers errors.
//   - NewHandler makes a whole server of a folder of repositories: a drop-in for restic's rest-server 0.14, with its users, quota,
//     log and metrics. What differs is said at Server.
//
// The protocol, versions 1 and 2: https://restic.readthedocs.io/en/stable/REST_backend.html
//
// What must hold:
//
//   - A name that is there has its whole content, on the disk: an upload is received under a temporary name, checked against the
//     SHA-256 that it is named by, synced, given its name without replacing anything, and its folder is synced, before it is answered.
//   - Nothing outside of the folder is reached, whatever symbolic links are in it (os.Root).
//   - No request takes memory by the size of what it transfers, and none outlives a client that is silent (Store.StallTimeout).
//
// It speaks to Linux directly: getdents64(2), renameat2(2).
package restserver
