module commerce-pipeline/runc-wrapper

go 1.26.0
