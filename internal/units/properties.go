package units

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	sd "github.com/coreos/go-systemd/v22/dbus"
)

// setting is how a setting of a unit file becomes a property of D-Bus. The names and types are those of
// org.freedesktop.systemd1(5); where a name differs from that in unit files, property has it.
type setting struct {
	property string
	parse    func(value any) (any, error)
}

// supported are the settings that the configuration may make for a module's service, by their names in systemd.exec(5),
// systemd.kill(5) and systemd.resource-control(5).
var supported = map[string]setting{
	// Resource control.
	"CPUAccounting":       {parse: parseBool},
	"CPUWeight":           {parse: parseCPUWeight},
	"StartupCPUWeight":    {parse: parseCPUWeight},
	"CPUQuota":            {property: "CPUQuotaPerSecUSec", parse: parseQuota},
	"CPUQuotaPeriodSec":   {property: "CPUQuotaPeriodUSec", parse: parseSpan},
	"AllowedCPUs":         {parse: parseCPUs},
	"AllowedMemoryNodes":  {parse: parseCPUs},
	"MemoryAccounting":    {parse: parseBool},
	"MemoryMin":           {parse: parseShare},
	"MemoryLow":           {parse: parseShare},
	"MemoryHigh":          {parse: parseShare},
	"MemoryMax":           {parse: parseShare},
	"MemorySwapMax":       {parse: parseShare},
	"TasksAccounting":     {parse: parseBool},
	"TasksMax":            {parse: parseTasks},
	"IOAccounting":        {parse: parseBool},
	"IOWeight":            {parse: parseIOWeight},
	"StartupIOWeight":     {parse: parseIOWeight},
	"IODeviceWeight":      {parse: parseDevices(parseWeight)},
	"IOReadBandwidthMax":  {parse: parseDevices(parseBandwidth)},
	"IOWriteBandwidthMax": {parse: parseDevices(parseBandwidth)},
	"IOReadIOPSMax":       {parse: parseDevices(parseBandwidth)},
	"IOWriteIOPSMax":      {parse: parseDevices(parseBandwidth)},
	"IPAccounting":        {parse: parseBool},
	"IPAddressAllow":      {parse: parseAddresses},
	"IPAddressDeny":       {parse: parseAddresses},
	"DevicePolicy":        {parse: parseEnum("auto", "closed", "strict")},
	"DeviceAllow":         {parse: parseDeviceAllow},
	"Slice":               {parse: parseSlice},
	"ManagedOOMPreference": {
		parse: parseEnum("none", "avoid", "omit"),
	},

	// Scheduling and limits of processes.
	"Nice":                  {parse: parseInteger(-20, 19)},
	"OOMScoreAdjust":        {parse: parseInteger(-1000, 1000)},
	"OOMPolicy":             {parse: parseEnum("continue", "stop", "kill")},
	"CPUSchedulingPolicy":   {parse: parseNumbered(map[string]int32{"other": 0, "batch": 3, "idle": 5})},
	"IOSchedulingClass":     {parse: parseNumbered(map[string]int32{"realtime": 1, "best-effort": 2, "idle": 3})},
	"IOSchedulingPriority":  {parse: parseInteger(0, 7)},
	"UMask":                 {parse: parseMode},
	"LimitCPU":              {parse: parseLimit(parseSeconds)},
	"LimitFSIZE":            {parse: parseLimit(parseSize)},
	"LimitDATA":             {parse: parseLimit(parseSize)},
	"LimitSTACK":            {parse: parseLimit(parseSize)},
	"LimitCORE":             {parse: parseLimit(parseSize)},
	"LimitAS":               {parse: parseLimit(parseSize)},
	"LimitMEMLOCK":          {parse: parseLimit(parseSize)},
	"LimitNOFILE":           {parse: parseLimit(parseNumber64)},
	"LimitNPROC":            {parse: parseLimit(parseNumber64)},
	"SendSIGHUP":            {parse: parseBool},
	"LogLevelMax":           {parse: parseNumbered(logLevels)},
	"LogRateLimitBurst":     {parse: parseUint32},
	"SyslogIdentifier":      {parse: parseString},
	"Environment":           {parse: parseEnvironment},
	"SupplementaryGroups":   {parse: parseList},
	"RequiresMountsFor":     {parse: parsePaths("")},
	"CapabilityBoundingSet": {parse: parseCapabilities},
	"AmbientCapabilities":   {parse: parseCapabilities},

	// Sandbox.
	"NoNewPrivileges":         {parse: parseBool},
	"ProtectSystem":           {parse: parseBoolOr("full", "strict")},
	"ProtectHome":             {parse: parseBoolOr("read-only", "tmpfs")},
	"PrivateTmp":              {parse: parseBool},
	"PrivateDevices":          {parse: parseBool},
	"PrivateNetwork":          {parse: parseBool},
	"PrivateIPC":              {parse: parseBool},
	"PrivateUsers":            {parse: parseBool},
	"ProtectHostname":         {parse: parseBool},
	"ProtectClock":            {parse: parseBool},
	"ProtectKernelTunables":   {parse: parseBool},
	"ProtectKernelModules":    {parse: parseBool},
	"ProtectKernelLogs":       {parse: parseBool},
	"ProtectControlGroups":    {parse: parseBool},
	"ProtectProc":             {parse: parseEnum("default", "noaccess", "invisible", "ptraceable")},
	"ProcSubset":              {parse: parseEnum("all", "pid")},
	"RestrictRealtime":        {parse: parseBool},
	"RestrictSUIDSGID":        {parse: parseBool},
	"RestrictNamespaces":      {parse: parseNamespaces},
	"RestrictAddressFamilies": {parse: parseFilter},
	"LockPersonality":         {parse: parseBool},
	"MemoryDenyWriteExecute":  {parse: parseBool},
	"SystemCallArchitectures": {parse: parseList},
	"SystemCallFilter":        {parse: parseFilter},
	"KeyringMode":             {parse: parseEnum("inherit", "private", "shared")},
	"ReadWritePaths":          {parse: parsePaths("-+")},
	"ReadOnlyPaths":           {parse: parsePaths("-+")},
	"InaccessiblePaths":       {parse: parsePaths("-+")},
	"NoExecPaths":             {parse: parsePaths("-+")},
	"ExecPaths":               {parse: parsePaths("-+")},
	"BindPaths":               {parse: parseBinds},
	"BindReadOnlyPaths":       {parse: parseBinds},
	"TemporaryFileSystem":     {parse: parseTemporary},
}

// reserved are settings that somebody may look for among the supported ones, and where the configuration makes them instead.
var reserved = map[string]string{
	"User":             `use the module's key "user"`,
	"Group":            `use the module's key "group"`,
	"WorkingDirectory": `use the module's key "directory"`,
	"RuntimeMaxSec":    `use the backup's key "timeout"`,
	"TimeoutStartSec":  `use the backup's key "timeout"`,
	"LoadCredential":   "it is made from the destination",
	"SetCredential":    "anybody could read the secret",
	"ExecStart":        `use the module's keys "dump-state" and "cleanup-state"`,
	"ExecStartPre":     `use the module's key "dump-state"`,
	"ExecStopPost":     `use the module's key "cleanup-state"`,
	"CacheDirectory":   "it is made for every repository",
	"BindsTo":          "it is made from the run",
	"Type":             "it is always oneshot",
	"KillMode":         "it is always mixed",
	"DynamicUser":      `use the module's key "user"`,
}

// CheckProperty tells what is wrong with a setting of a module's service, and what would be right.
func CheckProperty(name string, value any) error {
	_, err := ParseProperty(name, value)
	return err
}

// ParseProperty converts a setting, by its name in unit files and with a value as TOML has it, to a property of D-Bus. Values are
// written as in unit files; numbers, booleans and lists may also be TOML's own.
func ParseProperty(name string, value any) (sd.Property, error) {
	s, ok := supported[name]
	if !ok {
		return sd.Property{}, unknown(name)
	}
	v, err := s.parse(value)
	if err != nil {
		return sd.Property{}, fmt.Errorf("%s: %w", name, err)
	}
	if s.property != "" {
		name = s.property
	}
	if part, ok := v.(scale); ok { // a share of what the machine has is another property
		return property(name+"Scale", uint32(part)), nil
	}
	return property(name, v), nil
}

// unknown is the error for a setting that is not supported.
func unknown(name string) error {
	if why, ok := reserved[name]; ok {
		return fmt.Errorf("%s cannot be set here: %s", name, why)
	}
	if near := nearest(name, slices.Sorted(maps.Keys(supported))); near != "" {
		return fmt.Errorf("%s is not supported: did you mean %s?", name, near)
	}
	return fmt.Errorf("%s is not supported: want a setting of systemd.resource-control(5) or systemd.exec(5)", name)
}

// nearest returns the name that most likely was meant, or "".
func nearest(name string, names []string) string {
	best, least := "", len(name)/3+1
	for _, n := range names {
		if d := distance(strings.ToLower(name), strings.ToLower(n)); d < least {
			best, least = n, d
		}
	}
	return best
}

// distance is how many bytes must be changed, added or removed to make b of a (Levenshtein's).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := diagonal
			if a[i] != b[j] {
				next = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
