module commerce-pipeline/pause

go 1.26.0
