package status

// TrimAt is the number of runs at which a history is trimmed to MaxRuns by the next one.
const (
	MaxRuns = maxRuns
	TrimAt  = maxRuns + maxRuns/4
)
