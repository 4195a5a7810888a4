package main

// Help is printed below the usage of a command; each shows an example.

func (backup) Help() string {
	return `A version is there when all of it is: what a backup that was cut off has stored is used by the next one.

Example: file-backup backup --dry-run`
}

func (listVersions) Help() string { return "Example: file-backup list-versions --json" }

func (listFiles) Help() string { return "Example: file-backup list-files latest --long" }

func (listChanges) Help() string { return "Example: file-backup list-changes latest" }

func (download) Help() string {
	return "Example: file-backup download \"2026-11-20 03:00\" /srv/restored photos/2026"
}

func (diff) Help() string { return "Example: file-backup diff 2026-11-20 latest" }

func (verify) Help() string { return "Example: file-backup verify --read-data" }

func (collect) Help() string { return "Example: file-backup garbage-collect --dry-run" }

func (cleanLog) Help() string { return "Example: file-backup clean-garbage-log --dry-run" }

func (undelete) Help() string { return "Example: file-backup undelete --dry-run" }

func (expire) Help() string {
	return "Example: file-backup expire --keep-daily 14 --keep-monthly 12 --dry-run"
}
