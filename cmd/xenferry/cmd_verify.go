package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/xenferry/xenferry/savefmt"
)

func verifyCommand() *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "check a saved guest, and tell what is in it",
		ArgsUsage: "<file>",
		Description: "Reads all of <file>, - for standard input, and checks it strictly: a save file\n" +
			"of xl or xenferry, a container of save -z, or a bare libxl or libxc stream. The\n" +
			"first thing that is wrong is told with its record and offset, exit code 10. A\n" +
			"stock file has no checksums: damage inside a page is found in a container only.\n" +
			"Needs no Xen and no root.",
		Flags:        []cli.Flag{jsonFlag},
		OnUsageError: usageError,
		Action:       verifySaved,
	}
}

func verifySaved(c *cli.Context) error {
	if c.NArg() != 1 {
		return usagef("verify takes one file, not %d arguments (see xenferry verify --help)", c.NArg())
	}
	name := c.Args().First()
	sum, err := verifyInput(c.Context, name)
	if c.Bool(jsonFlag.Name) {
		result := struct {
			*savefmt.Summary
			Whole bool   `json:"whole"`
			Error string `json:"error,omitempty"`
		}{Summary: sum, Whole: err == nil}
		if err != nil {
			result.Error = err.Error()
		}
		err = joinOutput(err, json.NewEncoder(c.App.Writer).Encode(result))
	} else if err == nil {
		err = printSummary(c.App.Writer, name, sum)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// verifyInput verifies what is in a file of that name. The summary is nil if
// it cannot be opened.
func verifyInput(ctx context.Context, name string) (*savefmt.Summary, error) {
	in, err := openInput(ctx, name)
	if err != nil {
		return nil, err
	}
	defer in.close()
	return savefmt.Verify(in.saved())
}

func printSummary(out io.Writer, name string, s *savefmt.Summary) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%s\twhole, %s, %s\n", name, s.Format, bytesText(uint64(s.Bytes)))
	if k := s.Container; k != nil {
		fmt.Fprintf(w, "container\t%s in %d blocks: %s\n", bytesText(uint64(k.Bytes)), k.Blocks, countsText(k.Codecs))
	}
	fmt.Fprintf(w, "guest\t%s, %s, %d vCPUs\n", orDash(nameText(s.Name)), s.Guest, s.VCPUs)
	fmt.Fprintf(w, "uuid\t%s\n", orDash(nameText(s.UUID)))
	fmt.Fprintf(w, "memory\t%s, highest pfn %#x\n", bytesText(s.MemKiB<<10), s.HighestPFN)
	by := "Xen " + s.Xen
	if s.Guest == "sim" {
		by = "a simulated host"
	}
	fmt.Fprintf(w, "saved by\t%s, libxc stream version %d\n", by, s.Version)
	fmt.Fprintf(w, "records\t%s\n", countsText(s.Records))
	fmt.Fprintf(w, "pages\t%s; %d replaced by later copies\n", countsText(s.Pages), s.Repeated)
	return w.Flush()
}

// countsText writes counts in the order of their names.
func countsText(counts map[string]uint64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[name], name))
	}
	return strings.Join(parts, ", ")
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
