package schedule

import (
	"context"
	"time"

	"sdbackup/internal/config"
)

// Next returns when the timer of a backup elapses next, without its random delay; zero where that cannot be told. The manager
// knows it only when the timer's service has ended, so a run that is ending asks systemd to judge the expressions anew.
func (s *Scheduler) Next(ctx context.Context, b *config.Backup) time.Time {
	if !b.Enabled || len(b.Schedule) == 0 {
		return time.Time{}
	}
	calendars, err := s.judge(ctx, b.Schedule, 1)
	if err != nil {
		return time.Time{}
	}
	cfg := &config.Config{Backups: map[string]*config.Backup{b.ID: b}}
	if b.RandomizedOffset > 0 {
		expressions, _ := onCalendar(cfg, b, calendars, s.Offset)
		if calendars, err = s.judge(ctx, expressions, 1); err != nil {
			return time.Time{}
		}
	}
	var next time.Time
	for _, c := range calendars {
		if len(c.Next) > 0 && (next.IsZero() || c.Next[0].Before(next)) {
			next = c.Next[0]
		}
	}
	return next
}
