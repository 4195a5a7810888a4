package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/run"
	"sdbackup/internal/status"
)

// find returns what is to be done with a module for a backup, or all that is wrong with that. Backup is "" for the one that there is.
func find(paths config.Paths, moduleID, backupID string) (run.Job, error) {
	cfg := config.Load(paths.Config, nil)
	m := cfg.Modules[moduleID]
	var errs []error
	if m == nil {
		errs = append(errs, fmt.Errorf("there is no module %s in the configuration", moduleID))
	} else if backupID == "" {
		var err error
		if backupID, err = only(cfg, moduleID); err != nil {
			errs = append(errs, err)
		}
	}
	b := cfg.Backups[backupID]
	if b == nil && backupID != "" {
		errs = append(errs, fmt.Errorf("there is no backup %s in the configuration", backupID))
	}
	problems := append(cfg.BackupErrors(backupID), cfg.ModuleErrors(backupID, moduleID)...)
	if len(errs) > 0 { // it may be in what could not be read
		problems = append(problems, slices.DeleteFunc(cfg.Errors(), func(p config.Problem) bool { return !p.Hides() })...)
	}
	for _, p := range problems {
		errs = append(errs, errors.New(p.String()))
	}
	if len(errs) == 0 && cfg.Destinations[b.Destination] == nil {
		errs = append(errs, fmt.Errorf("there is no destination %s in the configuration", b.Destination))
	}
	if len(errs) > 0 {
		return run.Job{}, &cli.ExitError{Code: cli.ExitUsage, Err: errors.Join(errs...)}
	}
	rec, _ := (status.Store{Dir: paths.State}).Module(b.ID, m.ID) // what is not known costs at most a call of restic
	return run.Job{
		Plan: module.NewPlan(cfg, paths, b, m, "manual", rec), Module: m, Destination: cfg.Destinations[b.Destination], Backup: b, Gateway: cfg.Gateway,
	}, nil
}

// only returns the backup that saves a module.
func only(cfg *config.Config, moduleID string) (string, error) {
	var ids []string
	for _, id := range cfg.BackupIDs() {
		if slices.Contains(cfg.Backups[id].Modules, moduleID) {
			ids = append(ids, id)
		}
	}
	switch len(ids) {
	case 0:
		return "", fmt.Errorf("no backup saves module %s", moduleID)
	case 1:
		return ids[0], nil
	}
	return "", fmt.Errorf("module %s is saved by the backups %s; want one of them as --backup", moduleID, strings.Join(ids, ", "))
}
