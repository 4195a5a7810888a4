package status

// Worst is the verdict over several outcomes: Failed before Conflict before Partial before Success. What is none of these
// has failed, and so has a run that has nothing to show.
func Worst(outcomes ...Outcome) Outcome {
	if len(outcomes) == 0 {
		return Failed
	}
	worst := 0
	for _, o := range outcomes {
		worst = max(worst, rank(o))
	}
	return [...]Outcome{Success, Partial, Conflict, Failed}[worst]
}

func rank(o Outcome) int {
	switch o {
	case Success:
		return 0
	case Partial:
		return 1
	case Conflict:
		return 2
	default:
		return 3
	}
}

// isSuccess tells whether everything was saved that could be; what Partial lacks is not to count, says on-partial.
func isSuccess(o Outcome) bool { return o == Success || o == Partial }
