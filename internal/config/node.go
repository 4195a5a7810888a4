package config

// HasPassphrase tells whether runs leave a copy of the configuration at their destinations.
func (n Node) HasPassphrase() bool { return n.PassphraseFile != "" || n.PassphraseCredential != "" }

// TakesNodeCopies tells whether a copy of the configuration can be left at the destination: others only restic knows how to reach.
func (d *Destination) TakesNodeCopies() bool {
	_, local := d.Local()
	return d.Gateway || local
}

// nodeCopies warns of backups that leave no copy although one is wanted.
func (l *loader) nodeCopies() {
	if !l.Node.HasPassphrase() {
		return
	}
	for _, id := range l.BackupIDs() {
		b := l.Backups[id]
		if d := l.Destinations[b.Destination]; d != nil && (d.Repository != "" || d.Bucket != nil) && !d.TakesNodeCopies() {
			reached := " is reached by restic alone"
			if d.Repository == "" {
				reached = " is a bucket for files alone"
			}
			l.reference(b, "destination", b.Destination+reached+", so no copy of the configuration ([node] passphrase) is left there; "+
				"that takes a folder or the gateway", "")
			l.problems[len(l.problems)-1].Warning = true
		}
	}
}
