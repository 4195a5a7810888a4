package restserver

import (
	"path"
	"slices"
	"strings"
)

// Object is what a request is about: something in a repository.
type Object struct {
	Type string // config, data, index, keys, locks or snapshots; "": the repository itself
	Name string // 64 lowercase hexadecimal digits; "": the list of the type, or the config
}

// folderTypes are the types of objects that have a folder. As names of folders above a repository, they are reserved, with config.
var folderTypes = []string{"data", "index", "keys", "locks", "snapshots"}

const (
	configType = "config"
	dataType   = "data"
	lockType   = "locks"
)

// maxPathBytes is PATH_MAX of Linux: what is longer names nothing.
const maxPathBytes = 4096

// ParsePath splits the path of a URL, decoded and clean, into the folders of a repository and what is wanted of it:
//
//	/a/b/                   the repository in b in a; its path ends with a slash
//	/a/b/config
//	/a/b/data/              the list of its data
//	/a/b/data/0123...cdef
//
// It is not ok where the path names nothing of the kind, or a folder is empty, ".", "..", has a NUL, or is named as a type of
// objects. Put together again with slashes, folders and object are the path.
func ParsePath(path string) (folders []string, o Object, ok bool) {
	if len(path) > maxPathBytes || !strings.HasPrefix(path, "/") {
		return nil, Object{}, false
	}
	for rest := path[1:]; ; {
		name, after, slash := strings.Cut(rest, "/")
		switch {
		case name == configType:
			return folders, Object{Type: name}, !slash
		case isFolderType(name):
			return folders, Object{name, after}, slash && (after == "" || isID(after))
		case !slash:
			return folders, Object{}, name == ""
		case !isFolder(name):
			return nil, Object{}, false
		}
		folders = append(folders, name)
		rest = after
	}
}

// valid tells whether the object could come from ParsePath: only then can it be made a path.
func (o Object) valid() bool {
	if o.Type == "" || o.Type == configType {
		return o.Name == ""
	}
	return isFolderType(o.Type) && (o.Name == "" || isID(o.Name))
}

// place is the folder where the object lies in a repository, and its name there.
func (o Object) place() (dir, name string) {
	switch o.Type {
	case configType:
		return ".", configType
	case dataType:
		return dataType + "/" + o.Name[:2], o.Name
	}
	return o.Type, o.Name
}

// Path is where the object lies in a repository, in the layout of restic's local backend: data/aa/aabb..., config. It is "." of a
// whole repository, and a folder's name of one without a Name.
func (o Object) Path() string {
	if o.Name == "" {
		return path.Clean(o.Type) // of "data", which has folders below it, too
	}
	return path.Join(o.place())
}

func isFolderType(name string) bool { return slices.Contains(folderTypes, name) }

func isFolder(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

// idLen is the length of a name: a SHA-256 in hexadecimal.
const idLen = 64

func isID[T string | []byte](name T) bool { return len(name) == idLen && isHex(name) }

func isHex[T string | []byte](name T) bool {
	for i := range len(name) {
		if c := name[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
